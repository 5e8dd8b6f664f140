//! `shared-storage`: KV goes through storage that both engines share, found by content (spec/sidecar.md 3.3; formerly
//! `lmcache`).
//!
//! Nothing about KV passes here: prefill leaves it in the storage, decode finds it there, and what nobody reads ages out.
//! A client that sends `cache_hit_threshold` wants the decode engine asked first: an engine that finds at least that
//! share of the prompt in its caches answers, and one that finds less says so at once.

use std::sync::Arc;

use bytes::Bytes;
use kvferry_contract::Endpoint;
use kvferry_splice::{Edits, Malformed};
use serde::Deserialize;

use super::{
    Accepted, Attempt, Connector, First, Options, Outgoing, PrefillLimits, ReleaseRequest, Unusable,
};
use crate::request::Asked;

/// The share of the prompt that must be cached for the engine to go on; 0 makes it always go on.
const THRESHOLD: &str = "cache_hit_threshold";

/// How an engine says that less was cached.
const DECLINED: &str = "cache_threshold";

/// The connector.
pub fn connector(options: &Options) -> Arc<dyn Connector> {
    Arc::new(SharedStorage { limits: options.prefill_limits })
}

#[derive(Debug)]
struct SharedStorage {
    limits: PrefillLimits,
}

impl Connector for SharedStorage {
    /// KV is found by its content.
    fn takes_several_prompts(&self) -> bool {
        true
    }

    fn watch(&self) -> &'static [&'static str] {
        &[THRESHOLD]
    }

    fn cancels_at_once(&self) -> bool {
        true
    }

    fn first(&self, asked: &Asked) -> Option<First> {
        asked.intake.document.value(THRESHOLD).map(|_| First { declines: declined })
    }

    fn begin(
        &self,
        _asked: &Asked,
        _target: &Endpoint,
        _answer: Option<&Bytes>,
    ) -> Result<Box<dyn Attempt>, Unusable> {
        Ok(Box::new(Handover { limits: self.limits }))
    }
}

/// One attempt; it has nothing to remember.
#[derive(Debug)]
struct Handover {
    limits: PrefillLimits,
}

impl Attempt for Handover {
    fn prefill(&self, asked: &Asked) -> Outgoing {
        asked.edit(self.limits.apply(Edits::new().set(THRESHOLD, "0"), asked))
    }

    fn accept(&mut self, _asked: &Asked, _answer: &Bytes) -> Result<Accepted, Malformed> {
        Ok(Accepted::default())
    }

    fn decode(&self, asked: &Asked) -> Outgoing {
        asked.edit(Edits::new().set(THRESHOLD, "0"))
    }

    fn release(&self) -> Option<ReleaseRequest> {
        None
    }
}

/// Whether an answer, or an event of a stream, says that too little was cached.
fn declined(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        finish_reason: Option<String>,
    }
    // Answers are long and hardly ever say so: the search costs less than the reading.
    memchr::memmem::find(json, DECLINED.as_bytes()).is_some()
        && serde_json::from_slice::<Answer>(json).is_ok_and(|answer| {
            answer.choices.first().is_some_and(|choice| choice.finish_reason.as_deref() == Some(DECLINED))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_choices_finish_reason_declines() {
        for (json, expected) in [
            (r#"{"choices":[{"finish_reason":"cache_threshold"}]}"#, true),
            (
                r#"{"id":"x","choices":[{"index":0,"text":"","finish_reason":"cache_threshold","n":1e999}],"usage":null}"#,
                true,
            ),
            (r#"{"choices":[{"finish_reason":"stop","text":"cache_threshold"}]}"#, false),
            (r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"cache_threshold"}]}"#, false),
            (r#"{"choices":[{"finish_reason":null}],"x":"cache_threshold"}"#, false),
            (r#"{"choices":[],"x":"cache_threshold"}"#, false),
            (r#"{"choices":"cache_threshold"}"#, false),
            ("cache_threshold", false),
            ("", false),
        ] {
            assert_eq!(declined(json.as_bytes()), expected, "{json}");
        }
    }
}
