//! `offloading`: vLLM's OffloadingConnector with its P2P tier (spec/sidecar.md 3.6 and 12.4). Prefill stores its KV in the
//! tier under an id; decode fetches it there. Serial: a fetch that comes before the KV was stored burns the decode engine's
//! fixed load deadline and ends in a local prefill.

use std::sync::Arc;

use bytes::Bytes;
use kvferry_contract::Endpoint;
use kvferry_splice::{Edits, Malformed, scan};

use super::nixlv2::KV;
use super::source::{Peer, Tier, extend};
use super::{
    Accepted, Attempt, Connector, Options, Outgoing, PrefillLimits, ReleaseRequest, Unusable, fresh,
};
use crate::request::Asked;

/// The connector.
pub fn connector(options: &Options) -> Arc<dyn Connector> {
    Arc::new(Offloading { limits: options.prefill_limits, tier: Tier::new(options) })
}

#[derive(Debug)]
struct Offloading {
    limits: PrefillLimits,
    tier: Tier,
}

impl Connector for Offloading {
    fn watch(&self) -> &'static [&'static str] {
        &[KV]
    }

    /// What a dropped prefill stored is an entry of a cache like any other.
    fn cancels_at_once(&self) -> bool {
        true
    }

    fn pulls_from_source(&self) -> bool {
        true
    }

    fn begin(
        &self,
        asked: &Asked,
        target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        let id = fresh::id();
        let prefill = format!("{{\"remote_decoder\":{{\"kv_request_id\":\"{id}\"}}}}");
        let source = self.tier.for_prefill(asked, target);
        Ok(Box::new(Stored {
            limits: self.limits,
            prefill: extend(prefill, source.as_ref()),
            decode: fetch(&self.tier.peer(target, id)),
        }))
    }

    fn alone(&self, asked: &Asked) -> Option<Outgoing> {
        self.tier.alone(asked)
    }
}

fn fetch(from: &Peer) -> Bytes {
    let from = serde_json::to_string(from).expect("texts and a number are JSON");
    format!("{{\"remote_prefiller\":{from}}}").into()
}

/// One attempt: the `kv_transfer_params` of either leg.
#[derive(Debug)]
struct Stored {
    limits: PrefillLimits,
    prefill: Bytes,
    decode: Bytes,
}

impl Attempt for Stored {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        asked.edit(self.limits.apply(Edits::new().set(KV, self.prefill.clone()), asked))
    }

    fn accept(&mut self, _asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        scan(answer, &[])?;
        Ok(Accepted::default())
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        asked.edit(Edits::new().set(KV, self.decode.clone()))
    }

    fn release(&self) -> Option<ReleaseRequest> {
        None
    }
}
