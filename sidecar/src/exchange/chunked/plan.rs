//! Which requests can be decoded in chunks, and the body of each chunk (spec/sidecar.md 3.8 and 13.2).
//!
//! A chunk begins where the one before it ended, but as a request of its own: whatever an engine keeps in mind during one
//! generation is lost between two. So a request that relies on such memory (tools, log-probabilities, a grammar, stop
//! strings, penalties, several choices) is decoded in one piece, whatever `--decode-chunk-size` says. What is not listed
//! here is per token or per prompt, and survives.

use std::num::NonZeroU32;

use bytes::Bytes;
use kvferry_splice::{Chunks, Document, Edits, get_path, scan_chunks};

use crate::exchange::hole::Hole;
use crate::request::route::Api;

/// Members that keep a request from being decoded in chunks, unless they have one of these values.
const KEEPS_WHOLE: [(&str, &[&str]); 33] = [
    // Several choices, or one of several.
    ("n", &["1"]),
    ("best_of", &["1"]),
    ("use_beam_search", &["false"]),
    // Answers of which a message's text is only a part.
    ("tools", &["[]"]),
    ("functions", &["[]"]),
    ("tool_choice", &[r#""none""#, r#""auto""#]),
    ("audio", &[]),
    ("logprobs", &["false"]),
    ("top_logprobs", &["0"]),
    ("prompt_logprobs", &[]),
    ("echo", &["false"]),
    ("return_token_ids", &["false"]),
    ("return_tokens_as_token_ids", &["false"]),
    // A grammar starts anew with every request.
    ("response_format", &[r#"{"type":"text"}"#, r#"{"type": "text"}"#]),
    ("structured_outputs", &[]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("structural_tag", &[]),
    // Words that may lie across the seam of two chunks.
    ("stop", &["[]"]),
    ("bad_words", &["[]"]),
    // Counted from the beginning of the answer.
    ("min_tokens", &["0"]),
    ("frequency_penalty", &["0", "0.0"]),
    ("presence_penalty", &["0", "0.0"]),
    ("logits_processors", &["[]"]),
    // The same dice would fall the same way in every chunk.
    ("seed", &[]),
    // The text so far has to be the end of the prompt.
    ("continue_final_message", &["false"]),
    ("add_generation_prompt", &["true"]),
    ("truncate_prompt_tokens", &[]),
    // Engines' own ways to bound thinking: a chunk would be granted the whole bound again.
    ("thinking_token_budget", &[]),
    ("reasoning_budget", &[]),
    ("thinking_budget", &[]),
];

/// Members that are read or set here.
const EDITED: [&str; 6] = ["messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", KV];

/// Names KV that can be read once: for the first chunk.
const KV: &str = "kv_transfer_params";

const WATCH: [&str; KEEPS_WHOLE.len() + EDITED.len()] = {
    let mut names = [""; KEEPS_WHOLE.len() + EDITED.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = if at < EDITED.len() { EDITED[at] } else { KEEPS_WHOLE[at - EDITED.len()].0 };
        at += 1;
    }
    names
};

/// A request that is decoded in chunks.
#[derive(Debug)]
pub(super) struct Plan {
    body: Chunks,
    document: Document<'static>,
    /// Tokens of one chunk.
    pub(super) size: u64,
    /// Tokens of the whole answer; `None`: as many as the engine has room for.
    pub(super) budget: Option<u64>,
    /// The client wants events.
    pub(super) stream: bool,
    /// And one with the usage.
    pub(super) usage_event: bool,
}

impl Plan {
    /// `None`: this request is decoded in one piece.
    pub(super) fn of(api: Api, body: &Chunks, size: NonZeroU32) -> Option<Self> {
        if api != Api::ChatCompletions {
            return None;
        }
        let document = scan_chunks(body, &WATCH).ok()?;
        let value = |name: &str| {
            document.value(name).map(|range| body.gather(range)).filter(|value| &value[..] != b"null")
        };
        let lost = KEEPS_WHOLE.iter().any(|(name, harmless)| {
            value(name).is_some_and(|value| !harmless.iter().any(|text| text.as_bytes() == value))
        });
        if lost {
            return None;
        }
        let size = u64::from(size.get());
        let budget = match value("max_completion_tokens").or_else(|| value("max_tokens")) {
            None => None,
            // What is no number of tokens is for the engine to refuse.
            Some(text) => {
                Some(std::str::from_utf8(&text).ok()?.parse().ok().filter(|budget| *budget > size)?)
            }
        };
        let stream = match value("stream").as_deref() {
            None | Some(b"false") => false,
            Some(b"true") => true,
            Some(_) => return None,
        };
        let options = value("stream_options").unwrap_or_default();
        let option = |name| get_path(&options, &[name]).is_some_and(|value| &value[..] == b"true");
        // Its numbers in every event would be those of one chunk.
        if option("continuous_usage_stats") {
            return None;
        }
        let messages = value("messages")?;
        let inside = messages.strip_prefix(b"[")?.strip_suffix(b"]")?;
        if inside.trim_ascii().is_empty() {
            return None;
        }
        let usage_event = option("include_usage");
        Some(Self { body: body.clone(), document, size, budget, stream, usage_event })
    }

    /// Tokens of the next chunk if so many are left.
    pub(super) fn limit(&self, left: Option<u64>) -> u64 {
        left.map_or(self.size, |left| left.min(self.size))
    }

    /// The first chunk: the decode leg itself, shorter.
    pub(super) fn first(&self) -> Chunks {
        self.apply(&whole_answer(Some(self.limit(self.budget))))
    }

    /// Any other chunk, with a gap for the [`continuation`]. `limit`: `None` leaves it to the engine.
    pub(super) fn later(&self, limit: Option<u64>) -> Option<Hole> {
        let edits = whole_answer(limit)
            .remove(KV)
            .set("continue_final_message", "true")
            .set("add_generation_prompt", "false");
        Hole::open(&self.apply(&edits), "messages", 1)
    }

    /// The whole request in one piece, without KV.
    pub(super) fn in_one_piece(&self) -> Chunks {
        self.apply(&Edits::new().remove(KV))
    }

    fn apply(&self, edits: &Edits<'_>) -> Chunks {
        edits.apply(&self.document, &self.body)
    }
}

fn whole_answer(limit: Option<u64>) -> Edits<'static> {
    let edits = Edits::new().set("stream", "false").remove("stream_options");
    match limit.map(|limit| Bytes::from(limit.to_string())) {
        None => edits.remove("max_tokens").remove("max_completion_tokens"),
        Some(limit) => edits.set("max_tokens", limit.clone()).set("max_completion_tokens", limit),
    }
}

/// What fills the gap of a later chunk: the one message that the answer is so far.
pub(super) fn continuation(text: &str) -> Bytes {
    let text = serde_json::Value::from(text);
    format!(r#",{{"role":"assistant","content":{text}}}"#).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: NonZeroU32 = NonZeroU32::new(10).unwrap();

    fn plan(body: &str) -> Option<Plan> {
        Plan::of(Api::ChatCompletions, &Chunks::from(Bytes::copy_from_slice(body.as_bytes())), SIZE)
    }

    fn with(members: &str) -> String {
        format!(r#"{{"messages":[{{"role":"user","content":"x"}}]{members}}}"#)
    }

    #[test]
    fn only_an_answer_longer_than_a_chunk_is_cut() {
        for (members, budget) in [
            ("", Some(None)),
            (r#","max_tokens":11"#, Some(Some(11))),
            (r#","max_tokens":10"#, None),
            (r#","max_tokens":1"#, None),
            (r#","max_tokens":null"#, Some(None)),
            (r#","max_tokens":5,"max_completion_tokens":50"#, Some(Some(50))),
            (r#","max_tokens":50,"max_completion_tokens":5"#, None),
            (r#","max_tokens":50,"max_completion_tokens":null"#, Some(Some(50))),
            // For the engine to refuse.
            (r#","max_tokens":0"#, None),
            (r#","max_tokens":-50"#, None),
            (r#","max_tokens":50.5"#, None),
            (r#","max_tokens":"50""#, None),
        ] {
            assert_eq!(plan(&with(members)).map(|plan| plan.budget), budget, "{members}");
        }
        let body = Chunks::from(Bytes::from(with("")));
        for api in [Api::Completions, Api::Messages, Api::Responses, Api::VllmGenerate, Api::SglangGenerate] {
            assert!(Plan::of(api, &body, SIZE).is_none());
        }
    }

    #[test]
    fn what_chunks_would_lose_keeps_a_request_whole() {
        for members in [
            r#","n":2"#,
            r#","tools":[{"type":"function"}]"#,
            r#","logprobs":true"#,
            r#","top_logprobs":2"#,
            r#","prompt_logprobs":0"#,
            r#","response_format":{"type":"json_object"}"#,
            r#","guided_json":{}"#,
            r#","stop":"\n""#,
            r#","stop":["a"]"#,
            r#","seed":1"#,
            r#","frequency_penalty":0.5"#,
            r#","min_tokens":3"#,
            r#","continue_final_message":true"#,
            r#","add_generation_prompt":false"#,
            r#","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}"#,
            r#","stream":1"#,
        ] {
            assert!(plan(&with(members)).is_none(), "{members}");
        }
        for members in [
            r#","n":1,"tools":[],"tool_choice":null,"logprobs":false,"top_logprobs":null,"stop":null,"seed":null"#,
            r#","frequency_penalty":0,"presence_penalty":0.0,"min_tokens":0,"response_format":{"type":"text"}"#,
            r#","temperature":0.7,"top_p":0.9,"logit_bias":{"5":1},"stop_token_ids":[5],"cache_salt":"s""#,
        ] {
            assert!(plan(&with(members)).is_some(), "{members}");
        }
        for body in ["{}", r#"{"messages":[ ]}"#, r#"{"messages":"x"}"#, r#"{"messages":null}"#] {
            assert!(plan(body).is_none(), "{body}");
        }
    }

    #[test]
    fn the_first_chunk_is_the_decode_leg_and_the_others_go_on_from_its_text() {
        let plan = plan(&with(
            r#","kv_transfer_params":{"id":12345678901234567890},"max_tokens":25,"stream":true,"stream_options":{"include_usage":true},"z":1.50"#,
        ))
        .unwrap();
        assert_eq!((plan.budget, plan.stream, plan.usage_event), (Some(25), true, true));
        assert_eq!(
            plan.first().to_bytes(),
            r#"{"max_completion_tokens":10,"messages":[{"role":"user","content":"x"}],"kv_transfer_params":{"id":12345678901234567890},"max_tokens":10,"stream":false,"z":1.50}"#
        );
        let later = plan.later(Some(plan.limit(Some(5)))).unwrap();
        assert_eq!(
            later.fill(continuation("say \"so\"\n")).to_bytes(),
            r#"{"max_completion_tokens":5,"continue_final_message":true,"add_generation_prompt":false,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"say \"so\"\n"}],"max_tokens":5,"stream":false,"z":1.50}"#
        );
        assert_eq!(
            plan.later(None).unwrap().fill(continuation("a")).to_bytes(),
            r#"{"continue_final_message":true,"add_generation_prompt":false,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"a"}],"stream":false,"z":1.50}"#
        );
        assert_eq!(
            plan.in_one_piece().to_bytes(),
            with(r#","max_tokens":25,"stream":true,"stream_options":{"include_usage":true},"z":1.50"#)
        );
    }
}
