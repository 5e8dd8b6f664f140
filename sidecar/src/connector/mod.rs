//! Connectors: one file each, saying what the two legs' bodies look like, what the prefill answer means, whether the
//! legs may overlap, how KV that nobody will read is released, and until when a prefill may be cancelled. The handoff
//! itself, its timing and its failures, is the same for all.

pub mod atom;
mod bidirectional;
mod fresh;
mod limits;
pub mod mooncake;
mod moriio;
pub mod nixlv2;
pub mod offloading;
mod push;
mod rank_hash;
mod release;
pub mod sglang;
mod shared_storage;
mod source;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use kvferry_contract::Endpoint;
use kvferry_metrics::Metrics;
use kvferry_splice::{Chunks, Malformed};

use crate::chat;
use crate::exchange;
use crate::first_token::{self, FirstToken};
use crate::request::intake::Intake;
use crate::request::{Asked, batch, stateful};

pub use bidirectional::BidirectionalOptions;
pub use limits::PrefillLimits;
pub use moriio::{Host, MoriIoOptions};
pub use release::{Refusals, ReleaseRequest};
pub use usage::UsageEdit;

/// A leg as a connector wants it: the body, and headers that differ from the client's.
#[derive(Debug)]
pub struct Outgoing {
    /// The whole body.
    pub body: Chunks,
    /// Set on top of the client's headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl From<Chunks> for Outgoing {
    fn from(body: Chunks) -> Self {
        Self { body, headers: Vec::new() }
    }
}

/// What a successful prefill answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// The prefill engine holds KV for a decode engine.
    pub kv: bool,
    /// Prompt tokens that prefill found in its own cache; `None` leaves the decode engine's number in the answer.
    pub cached_tokens: Option<u64>,
    /// A decode leg that runs beside prefill does not fit what prefill says: it has to be sent anew.
    pub anew: bool,
}

/// A decode engine that is asked first may decline: too little of the prompt is in its caches.
#[derive(Debug, Clone, Copy)]
pub struct First {
    /// Whether this answer, or event of a stream, says so. It may be any bytes.
    pub declines: fn(&[u8]) -> bool,
}

/// Something that must be asked of the prefill pod before an attempt can begin.
#[derive(Debug)]
pub struct Question {
    /// Who is asked, over plain HTTP.
    pub of: Endpoint,
    /// The path of the `GET`.
    pub path: &'static str,
    /// How long the answer may take.
    pub patience: Duration,
}

/// Why an attempt cannot begin: what the pod answered is of no use. Says what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable(pub String);

/// How two engines hand a request over. One value serves all requests of the process.
pub trait Connector: std::fmt::Debug + Send + Sync + 'static {
    /// Top-level members that its edits need to find.
    fn watch(&self) -> &'static [&'static str];

    /// Whether a prefill that nobody waits for may be dropped at any time without leaving KV behind. If not, it is given
    /// a moment to end, since only its answer names what it holds.
    fn cancels_at_once(&self) -> bool {
        false
    }

    /// Whether a body with several prompts can be handed over. If not, the decode engine computes such a body itself.
    fn takes_several_prompts(&self) -> bool {
        false
    }

    /// How long prefill may take, if the operator allows no less. Legs that overlap need one: a decode engine that waits
    /// for KV holds memory.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// What a client is told first when prefill took too long, where there are words that scripts know.
    fn known_timeout(&self) -> Option<&'static str> {
        None
    }

    /// Whether engines can pull KV from another engine's cache. If not, the header that names one is of no use.
    fn pulls_from_source(&self) -> bool {
        false
    }

    /// Whether the decode engine is to be asked before any prefill, with the client's own body.
    fn first(&self, _asked: &Asked) -> Option<First> {
        None
    }

    /// What to ask before an attempt at `target`; `None` if nothing, or if the answer is still known.
    fn question(&self, _target: &Endpoint) -> Option<Question> {
        None
    }

    /// Begins an attempt. `answer`: to the question, if one was asked.
    ///
    /// # Errors
    /// The answer is of no use.
    fn begin(
        &self,
        asked: &Asked,
        target: &Endpoint,
        answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable>;

    /// The body of a decode leg that no prefill precedes; `None`: the client's own.
    fn alone(&self, _asked: &Asked) -> Option<Outgoing> {
        None
    }

    /// The legs to `target` and to the decode engine of a request that is only to leave its KV in their caches, where such
    /// a request needs both. `None`: either of them serves it alone, as it is.
    fn pair(&self, _asked: &Asked, _target: &Endpoint) -> Option<[Outgoing; 2]> {
        None
    }

    /// An attempt at `target` failed: whatever is remembered of it may be out of date.
    fn forget(&self, _target: &Endpoint) {}
}

/// One attempt at one request: its ids and what it has learned.
pub trait Attempt: std::fmt::Debug + Send + Sync {
    /// The prefill leg.
    fn prefill(&self, asked: &Asked) -> Outgoing;

    /// Whether decode may run beside prefill.
    fn overlaps(&self) -> bool {
        false
    }

    /// The decode leg beside prefill. `Some` exactly if the legs overlap.
    fn beside(&self, _asked: &Asked) -> Option<Outgoing> {
        None
    }

    /// Whether the decode leg beside prefill is told what may be out of date. An error of its engine then waits for
    /// prefill's answer, which may show that decode has to be sent anew.
    fn guesses(&self) -> bool {
        false
    }

    /// Whether the KV can be released by what is known before prefill answers.
    fn named(&self) -> bool {
        false
    }

    /// The error that the engine told inside its successful answer, if it did. Asked before [`Self::accept`].
    fn told_error(&self, _answer: &Bytes) -> Option<String> {
        None
    }

    /// Takes the prefill leg's successful answer.
    ///
    /// # Errors
    /// It is no JSON object, which is the prefill engine's fault.
    fn accept(&mut self, asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed>;

    /// Why the answer that it has accepted is of no use for decode, if it is not.
    fn unusable(&self) -> Option<Unusable> {
        None
    }

    /// The decode leg after prefill.
    fn decode(&self, asked: &Asked) -> Outgoing;

    /// The answer's first token, if what prefill answered is exactly that. It then goes to the client at once.
    fn first_token(&self) -> Option<FirstToken> {
        None
    }

    /// Who wants to see the decode answer on its way to the client.
    fn observer(&self, _asked: &Asked) -> Option<Box<dyn Observer>> {
        None
    }

    /// The release move. It must be harmless if the KV was read or released before, and must never make the decode
    /// engine read KV. `None`: no request is known that frees it, and it is left to the engine's own limit. A connector
    /// whose KV is a cache that needs no release accepts with `kv: false`, and is not asked.
    fn release(&self) -> Option<ReleaseRequest>;
}

/// Sees a successful decode answer on its way to the client, without delaying or changing it.
pub trait Observer: Send {
    /// More of the answer's body, plain.
    fn data(&mut self, data: &[u8]);

    /// The answer is complete. Not called for one that broke off.
    fn end(self: Box<Self>);

    /// All of an answer that comes as one JSON text, instead of the others.
    fn whole(mut self: Box<Self>, answer: &[u8]) {
        self.data(answer);
        self.end();
    }
}

/// What connectors are made from: the operator's flags, under their names.
#[derive(Debug, Clone)]
pub struct Options {
    /// How the prefill leg's output is limited.
    pub prefill_limits: PrefillLimits,
    /// Bootstrap port of SGLang prefill engines (`SGLANG_BOOTSTRAP_PORT`).
    pub sglang_bootstrap_port: u16,
    /// Bootstrap port of vLLM's Mooncake prefill engines.
    pub mooncake_bootstrap_port: u16,
    /// Port on which engines serve KV to each other (`--p2p-connector-port`), of rank 0.
    pub p2p_port: u16,
    /// `--enable-p2p-pull`: `nixlv2` obeys the KV source header.
    pub p2p_pull: bool,
    /// The sidecar's own first port; rank `r` has the port `r` above it.
    pub port: u16,
    /// Ranks of this pod.
    pub ranks: u16,
    /// This pod's address.
    pub pod_ip: Option<String>,
    /// `--nixl-push-mode`
    pub push: bool,
    /// `--first-token-forwarding`
    pub first_token_forwarding: bool,
    /// KV that goes back from decode to prefill; `None`: it does not.
    pub bidirectional: Option<BidirectionalOptions>,
    /// MoRI-IO's flags.
    pub moriio: MoriIoOptions,
    /// Where connectors count.
    pub metrics: Metrics,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prefill_limits: PrefillLimits::default(),
            sglang_bootstrap_port: 8998,
            mooncake_bootstrap_port: 8998,
            p2p_port: 7777,
            p2p_pull: false,
            port: 8000,
            ranks: 1,
            pod_ip: None,
            push: false,
            first_token_forwarding: false,
            bidirectional: None,
            moriio: MoriIoOptions::default(),
            metrics: Metrics::new(&[], &[]),
        }
    }
}

/// Makes one connector.
type Make = fn(&Options) -> Arc<dyn Connector>;

/// Every connector there is, by its name in `--kv-connector`. A new one needs a line here and a file.
pub const ALL: &[(&str, Make)] = &[
    ("nixlv2", nixlv2::connector),
    ("sglang", sglang::connector),
    ("mooncake", mooncake::connector),
    ("offloading", offloading::connector),
    ("shared-storage", shared_storage::connector),
    ("atom", atom::connector),
];

/// The connector that `--kv-connector` names.
pub fn by_name(name: &str, options: &Options) -> Option<Arc<dyn Connector>> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, make)| make(options))
}

/// The name as it stands in [`ALL`]; empty if it is none.
pub fn name(name: &str) -> &'static str {
    ALL.iter().find(|(known, _)| *known == name).map_or("", |(known, _)| known)
}

/// What to look for in every body: the connector's members, and those that others need. Made once for the process.
/// `chats`: they are also looked into as chats.
pub fn watch(connector: &dyn Connector, chats: bool) -> &'static [&'static str] {
    let mut names: Vec<&'static str> = limits::WATCH.to_vec();
    names.extend(stateful::WATCH);
    names.extend(batch::WATCH);
    names.extend(exchange::ENCODE_WATCH);
    names.extend([first_token::RETURN_TOKEN_IDS, Intake::MODEL]);
    names.extend(connector.watch());
    if chats {
        names.extend(chat::request::WATCH);
    }
    names.sort_unstable();
    names.dedup();
    names.leak()
}
