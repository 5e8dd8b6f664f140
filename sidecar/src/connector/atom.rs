//! `atom`: AMD's ATOM engine on both sides (spec/sidecar.md 12.4). Serial, like `nixlv2`, with the rank in the body.
//!
//! No request is known that makes an ATOM engine free KV which nobody fetched, so there is no release: it stays held until
//! the prefill engine's own limit, and counts as expired.

use std::sync::Arc;

use bytes::Bytes;
use kvferry_contract::Endpoint;
use kvferry_splice::{Chunks, Edits, Malformed, scan};

use super::nixlv2::{KV, cached_tokens, returned_kv};
use super::{
    Accepted, Attempt, Connector, Options, Outgoing, PrefillLimits, ReleaseRequest, Unusable, fresh,
};
use crate::request::Asked;

/// The rank that both engines are to use, in the body.
const RANK: &str = "data_parallel_rank";

/// Asks prefill to keep its KV.
const KEEP_FOR_REMOTE: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false}"#;

/// What prefill calls its rank.
const PREFILL_RANK: &str = "dp_rank";

/// What decode looks for.
const REMOTE_RANK: &str = "remote_dp_rank";

/// Members of prefill's answer that are not for decode: it would take prefill's token for its own.
const TOKENS: [&str; 2] = ["first_token_id", "draft_token_ids"];

/// The connector.
pub fn connector(options: &Options) -> Arc<dyn Connector> {
    Arc::new(Atom { limits: options.prefill_limits, ranks: options.ranks })
}

#[derive(Debug)]
struct Atom {
    limits: PrefillLimits,
    ranks: u16,
}

impl Connector for Atom {
    fn watch(&self) -> &'static [&'static str] {
        &[KV, RANK]
    }

    fn begin(
        &self,
        _asked: &Asked,
        _target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        let rank = fresh::below(self.ranks.into()).to_string();
        Ok(Box::new(Pull { limits: self.limits, rank, kv: None }))
    }
}

/// One attempt. `kv`: what prefill returned, for decode.
#[derive(Debug)]
struct Pull {
    limits: PrefillLimits,
    rank: String,
    kv: Option<Bytes>,
}

impl Attempt for Pull {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        let edits = Edits::new().set(KV, KEEP_FOR_REMOTE).set(RANK, self.rank.clone());
        asked.edit(self.limits.apply(edits, asked))
    }

    fn accept(&mut self, asked: &Asked, answer: &Bytes) -> Result<Accepted, Malformed> {
        self.kv = returned_kv(answer)?.map(for_decode);
        let cached_tokens = Some(cached_tokens(asked.api, answer));
        Ok(Accepted { kv: self.kv.is_some(), cached_tokens, anew: false })
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        let kv = self.kv.clone().unwrap_or(Bytes::from_static(b"null"));
        asked.edit(Edits::new().set(KV, kv).set(RANK, self.rank.clone()))
    }

    fn release(&self) -> Option<ReleaseRequest> {
        None
    }
}

/// What prefill returned, in decode's words. Anything but an object is for the engine to judge.
fn for_decode(kv: Bytes) -> Bytes {
    let watch = [PREFILL_RANK, REMOTE_RANK, TOKENS[0], TOKENS[1]];
    let Ok(document) = scan(&kv, &watch) else { return kv };
    let edits = TOKENS.iter().fold(Edits::new(), |edits, name| edits.remove(name));
    let edits = match document.value(PREFILL_RANK) {
        Some(rank) => edits.set(REMOTE_RANK, kv.slice(rank)),
        None => edits,
    };
    edits.apply(&document, &Chunks::from(kv.clone())).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prefill_returns_is_put_into_decodes_words() {
        for (returned, expected) in [
            (r#"{"dp_rank":3,"remote_host":"h"}"#, r#"{"remote_dp_rank":3,"dp_rank":3,"remote_host":"h"}"#),
            (r#"{"dp_rank":3,"remote_dp_rank":0}"#, r#"{"dp_rank":3,"remote_dp_rank":3}"#),
            (r#"{"first_token_id":5,"a":1e9,"draft_token_ids":[1]}"#, r#"{"a":1e9}"#),
            ("{}", "{}"),
            ("[1]", "[1]"),
            ("\"text\"", "\"text\""),
        ] {
            assert_eq!(for_decode(returned.into()), expected, "{returned}");
        }
    }
}
