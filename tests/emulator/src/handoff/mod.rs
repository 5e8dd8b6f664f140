//! Where the KV of a request's prompt comes from, and what becomes of it.
//!
//! Each protocol has a file that reads its fields and says a [`Origin`] (this leg receives) or a [`Fate`]
//! (this leg computes for another). The fields are all that selects a protocol, unless the engine is configured
//! for one ([`crate::Config::connector`]). A request that asks for remote KV in a way that cannot work ends in
//! an error; none falls back to computing by itself.

pub(crate) mod bootstrap;
mod ends;
pub(crate) mod inbox;
pub(crate) mod key;
pub(crate) mod meet;
mod mooncake;
mod moriio;
mod nixl;
mod offloading;
mod push;
mod rank;
mod reuse;
mod sglang;
pub(crate) mod shared;
mod sink;
mod source;
pub(crate) mod table;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use serde_json::Value;

use crate::claim::Claim;
use crate::config::Connector;
use crate::encoder::Needs;
use crate::engine::Engine;
use crate::params::RemoteKv;
use inbox::{Letter, LetterClaim};
use meet::{MeetClaim, Meeting, numbered};
use moriio::Address;
use offloading::KvSource;
use reuse::Past;
use sink::Offering;
pub(crate) use sink::{Finished, HandedOut, Sink};
pub(crate) use source::Source;

/// Where a prompt's KV comes from, as the request says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// This engine computes it.
    Compute,
    /// Another engine holds it under a lease.
    Leased(RemoteKv),
    /// Another engine has it, or will have it, on offer.
    Meeting(Meeting),
    /// Another engine carries it here.
    Letter(Letter),
    /// This engine computes it, after it took what another one kept of the conversation's last turn.
    Past(Past),
    /// This engine computes it, after it took the start from another one's cache.
    Cached(KvSource),
    /// The request asks for remote KV in a way that cannot work, for this reason.
    Unusable(String),
}

/// What becomes of a prompt's KV, as the request says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is freed with the request.
    Free,
    /// It is leased, and the answer carries the handle.
    Lease,
    /// It is offered in this room, and the answer waits until it was fetched.
    Room(String),
    /// It is offered after the answer.
    Offer(Offering),
    /// It is carried to the decode engine after the answer.
    Carry(Address),
}

/// What a request wants done with the KV of its prompts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Intent {
    /// Whose fields these are; `None` for a request like any other.
    pub(crate) connector: Option<Connector>,
    pub(crate) origin: Origin,
    pub(crate) fate: Fate,
    /// Whether one token ends the answer, whatever the request's limits.
    pub(crate) one_token: bool,
}

impl Intent {
    /// A request that has nothing to do with another engine.
    fn local() -> Self {
        Self { connector: None, origin: Origin::Compute, fate: Fate::Free, one_token: false }
    }

    /// A leg that receives.
    fn receive(connector: Connector, origin: Origin) -> Self {
        Self { connector: Some(connector), origin, ..Self::local() }
    }

    /// A leg that computes for another engine.
    fn hand_out(connector: Connector, fate: Fate) -> Self {
        Self { connector: Some(connector), fate, ..Self::local() }
    }

    /// A leg that cannot be served.
    fn unusable(connector: Connector, reason: impl Into<String>) -> Self {
        Self::receive(connector, Origin::Unusable(reason.into()))
    }

    /// A leg that lacks a field.
    fn lacks(connector: Connector, field: &str) -> Self {
        Self::unusable(connector, format!("the request has no usable {field}"))
    }

    /// Reads a body's handoff fields.
    pub(crate) fn read(engine: &Engine, headers: &HeaderMap, body: &Value) -> Self {
        let params = body.get("kv_transfer_params").filter(|params| params.is_object());
        let by_params = |params| {
            moriio::read(params)
                .or_else(|| mooncake::read(engine, headers, params))
                .or_else(|| push::read(engine, headers, params))
                .or_else(|| offloading::read(engine, params))
                .or_else(|| nixl::read(params))
        };
        let intent =
            sglang::read(engine, body).or_else(|| params.and_then(by_params)).unwrap_or_else(Self::local);
        intent.checked(engine).with_source(params)
    }

    /// A prompt that would be computed may first take its start from elsewhere.
    fn with_source(mut self, params: Option<&Value>) -> Self {
        if self.origin == Origin::Compute
            && let Some(past) = params.and_then(reuse::read)
        {
            self.origin = past;
        }
        if self.origin == Origin::Compute
            && let Some(source) = params.and_then(offloading::read_source)
        {
            self.origin = match source {
                Ok(source) => Origin::Cached(source),
                Err(field) => Origin::Unusable(format!("remote_kv_source has no usable {field}")),
            };
        }
        self
    }

    /// An engine that is configured for one protocol takes no other for a request without any.
    fn checked(self, engine: &Engine) -> Self {
        match (engine.config().connector, self.connector) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                let reason = format!("this engine speaks {ours}, the request {theirs}");
                Self::unusable(theirs, reason)
            }
            (Some(Connector::Sglang), None) => {
                Self::unusable(Connector::Sglang, "the request has no bootstrap_room")
            }
            _ => self,
        }
    }

    /// Arms the plan for the prompt at `index`.
    pub(crate) fn plan(&self, engine: &Arc<Engine>, index: usize) -> Plan {
        let source = match &self.origin {
            Origin::Compute => Source::Compute,
            Origin::Leased(remote) => Source::Leased(Claim::new(remote.clone(), engine.runtime.clone())),
            Origin::Meeting(meeting) => Source::Meeting(MeetClaim::new(meeting.at(index), engine)),
            Origin::Letter(letter) => Source::Letter(LetterClaim::new(letter.at(index), engine)),
            Origin::Past(past) => Source::Past(past.clone()),
            Origin::Cached(source) => Source::Cached(source.clone()),
            Origin::Unusable(reason) => Source::Unusable(reason.clone()),
        };
        let sink = match &self.fate {
            Fate::Free => Sink::Free,
            Fate::Lease => Sink::Lease,
            Fate::Room(room) => Sink::Room(numbered(room, index)),
            Fate::Offer(offering) => Sink::Offer(offering.at(index)),
            Fate::Carry(address) => Sink::Carry(address.at(index)),
        };
        Plan { source, sink, threshold: None, needs: None }
    }
}

/// What happens to the KV of one prompt, with the duties that come with it.
pub(crate) struct Plan {
    pub(crate) source: Source,
    pub(crate) sink: Sink,
    /// The least share of the prompt, 0 to 1, that must need no computing.
    pub(crate) threshold: Option<f64>,
    /// The multimodal parts that computing it takes.
    pub(crate) needs: Option<Arc<Needs>>,
}

impl Plan {
    /// The plan of a request whose KV would be freed with it, and that keeps it instead.
    pub(crate) fn keeping(mut self, ttl: Option<Duration>) -> Self {
        if let (Sink::Free, Some(ttl)) = (&self.sink, ttl) {
            self.sink = Sink::Keep(ttl);
        }
        self
    }
}
