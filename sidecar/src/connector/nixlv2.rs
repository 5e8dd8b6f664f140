//! `nixlv2`: vLLM's NixlConnector, serial (spec/sidecar.md 3.1 and 12.3), and the choice of its variants.
//!
//! Prefill computes one token and keeps its KV for a remote decode; its `kv_transfer_params` go verbatim into the decode
//! leg, whose engine pulls the KV. Only prefill's answer names the KV, so a cancelled prefill is given a moment.
//!
//! Three things can be added to it: KV of a chat's turn before, which prefill reads back ([`bidirectional`]), the header
//! that picks a data-parallel rank, and the first token sent ahead of decode ([`crate::first_token`]). Where prefill writes instead ([`moriio`], [`push`]), the variant is a connector of its
//! own.

use std::sync::Arc;

use bytes::Bytes;
use kvferry_contract::Endpoint;
use kvferry_splice::{Edits, Malformed, get_path, scan};

use super::bidirectional::{self, Begun, Memory};
use super::moriio::{self, ranks::Ranks};
use super::source::{Tier, extend};
use super::{
    Accepted, Attempt, Connector, Observer, Options, Outgoing, PrefillLimits, ReleaseRequest, Unusable, push,
    release,
};
use crate::first_token::{FirstToken, Plan, RETURN_TOKEN_IDS};
use crate::request::Asked;
use crate::request::route::Api;

/// The member that carries everything about KV.
pub(super) const KV: &str = "kv_transfer_params";

/// Asks prefill to keep its KV for somebody else to pull.
pub(super) const KEEP_FOR_REMOTE: &[u8] = br#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

/// The connector.
pub fn connector(options: &Options) -> Arc<dyn Connector> {
    if options.moriio.write_mode {
        return moriio::connector(options);
    }
    if options.push {
        return push::connector(options);
    }
    let memory = options.bidirectional.clone().map(|memory| Arc::new(Memory::new(memory, options.ranks)));
    Arc::new(NixlV2 {
        limits: options.prefill_limits,
        tier: options.p2p_pull.then(|| Tier::new(options)),
        ranks: Ranks::new(options.moriio.dp_size, options.moriio.dp_size_local),
        memory,
        forwards: options.first_token_forwarding,
    })
}

#[derive(Debug)]
struct NixlV2 {
    limits: PrefillLimits,
    /// The engines have a P2P tier beside NIXL.
    tier: Option<Tier>,
    ranks: Ranks,
    /// Decode engines offer KV of the turn before.
    memory: Option<Arc<Memory>>,
    /// First tokens go to the client at once where that is exact.
    forwards: bool,
}

impl Connector for NixlV2 {
    fn watch(&self) -> &'static [&'static str] {
        if self.memory.is_some() { &bidirectional::WATCH } else { &[KV] }
    }

    fn pulls_from_source(&self) -> bool {
        self.tier.is_some()
    }

    fn begin(
        &self,
        asked: &Asked,
        target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        let source = self.tier.as_ref().and_then(|tier| tier.for_prefill(asked, target));
        let begun = self.memory.as_ref().and_then(|memory| Some((Arc::clone(memory), memory.begin(asked)?)));
        let offered = begun.as_ref().and_then(|(_, begun)| begun.params.clone());
        let keep = extend(offered.unwrap_or(Bytes::from_static(KEEP_FOR_REMOTE)), source.as_ref());
        let plan = self.forwards.then(|| Plan::of(asked)).flatten();
        Ok(Box::new(Pull {
            limits: self.limits,
            ranks: self.ranks,
            keep,
            begun,
            plan,
            kv: None,
            first: None,
        }))
    }

    fn alone(&self, asked: &Asked) -> Option<Outgoing> {
        self.tier.as_ref()?.alone(asked)
    }
}

/// One attempt.
#[derive(Debug)]
struct Pull {
    limits: PrefillLimits,
    ranks: Ranks,
    /// What prefill is asked to do.
    keep: Bytes,
    /// A turn of a chat, and where its offer is kept.
    begun: Option<(Arc<Memory>, Begun)>,
    /// The first token may be forwarded.
    plan: Option<Plan>,
    /// What prefill returned.
    kv: Option<Bytes>,
    first: Option<FirstToken>,
}

impl Attempt for Pull {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        let mut edits = Edits::new().set(KV, self.keep.clone());
        if self.plan.is_some_and(|plan| plan.needs_token_ids()) {
            edits = edits.set(RETURN_TOKEN_IDS, "true");
        }
        let mut leg = asked.edit(self.limits.apply(edits, asked));
        self.ranks.address(&mut leg, self.ranks.hashed(asked.id.as_bytes()));
        leg
    }

    fn accept(&mut self, asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        self.kv = returned_kv(answer)?;
        self.first = self.plan.and_then(|plan| FirstToken::read(plan, asked, answer));
        Ok(Accepted {
            kv: self.kv.is_some(),
            cached_tokens: Some(cached_tokens(asked.api, answer)),
            anew: false,
        })
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        let kv = self.kv.clone().unwrap_or(Bytes::from_static(b"null"));
        asked.edit(Edits::new().set(KV, kv))
    }

    fn first_token(&self) -> Option<FirstToken> {
        self.first.clone()
    }

    fn observer(&self, asked: &Asked) -> Option<Box<dyn Observer>> {
        self.begun.as_ref().map(|(memory, begun)| begun.observer(memory, asked))
    }

    fn release(&self) -> Option<ReleaseRequest> {
        self.kv.as_deref().map(release::by_refused_decode)
    }
}

/// The `kv_transfer_params` of a prefill answer, opaque. In a buffer of its own: the answer around it may be large and
/// need not live as long.
pub(super) fn returned_kv(answer: &Bytes) -> Result<Option<Bytes>, Malformed> {
    let document = scan(answer, &[KV])?;
    let kv = document.value(KV).map(|range| answer.slice(range)).filter(|kv| &kv[..] != b"null");
    Ok(kv.map(|kv| Bytes::copy_from_slice(&kv)))
}

/// Prompt tokens that prefill had cached; 0 where it does not say.
pub(super) fn cached_tokens(api: Api, answer: &Bytes) -> u64 {
    let path: &[&str] = match api {
        Api::Responses => &["usage", "input_tokens_details", "cached_tokens"],
        _ => &["usage", "prompt_tokens_details", "cached_tokens"],
    };
    get_path(answer, path)
        .and_then(|text| std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
        .unwrap_or(0)
}
