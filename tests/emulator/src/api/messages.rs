//! `POST /v1/messages`: the Anthropic shape, as vLLM lays it over its chat route.

use serde::Serialize;
use serde_json::{Value, json};

use super::request::Wanted;
use super::run::{Job, Outcome, Tally, Usage};
use super::sse::{Frames, event};
use super::template::{Ending, render, turns};
use crate::error::ApiError;
use crate::finish::Finish;
use crate::handoff::HandedOut;
use crate::tokens;

pub(super) fn read(body: &Value) -> Result<Wanted, ApiError> {
    let messages = body
        .get("messages")
        .and_then(Value::as_array)
        .ok_or_else(|| ApiError::schema("1 validation error: messages: Field required, a list"))?;
    let system = body.get("system").filter(|system| !system.is_null()).map(|system| ("system", system));
    let prompt = render(system.into_iter().chain(turns(messages)?), body.get("tools"), Ending::Reply);
    let wanted = Wanted::read(body, vec![prompt], &["max_tokens"])?;
    // This API has no n, no token ids, and no word against an early end.
    Ok(Wanted { n: 1, return_token_ids: false, may_end_from: Some(1), ..wanted })
}

#[derive(Serialize)]
pub(super) struct Whole<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    content: [Text; 1],
    model: &'a str,
    stop_reason: &'static str,
    usage: MessagesUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_transfer_params: Option<&'a HandedOut>,
}

#[derive(Serialize)]
struct Text {
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are the wire format")]
struct MessagesUsage {
    input_tokens: usize,
    output_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read_input_tokens: Option<usize>,
}

impl MessagesUsage {
    /// Anthropic counts cached input tokens apart from the others.
    fn new(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt - usage.cached,
            output_tokens: usage.completion,
            cache_read_input_tokens: Some(usage.cached).filter(|cached| *cached > 0),
        }
    }
}

pub(super) fn whole<'a>(job: &'a Job, outcome: &'a Outcome) -> Whole<'a> {
    Whole {
        id: &job.id,
        kind: "message",
        role: "assistant",
        content: [Text { kind: "text", text: tokens::decode(&outcome.tallies[0].tokens) }],
        model: &job.model,
        stop_reason: outcome.tallies[0].finish.anthropic(),
        usage: MessagesUsage::new(outcome.usage),
        kv_transfer_params: outcome.handle(),
    }
}

/// The stream: message and block begin, one delta per token, block and message end with usage.
pub(super) struct Stream {
    id: String,
    model: String,
}

impl Stream {
    pub(super) fn new(job: &Job) -> Self {
        Self { id: job.id.clone(), model: job.model.clone() }
    }
}

impl Frames for Stream {
    fn open(&mut self, _index: usize, usage: Usage) -> String {
        let start = json!({"type": "message_start", "message": {
            "id": self.id, "type": "message", "role": "assistant", "content": [], "model": self.model,
            "stop_reason": null, "stop_sequence": null, "usage": MessagesUsage::new(usage),
        }});
        let block =
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
        event("message_start", &start) + &event("content_block_start", &block)
    }

    fn token(&mut self, _index: usize, token: u32, _last: Option<Finish>) -> String {
        let delta = json!({"type": "text_delta", "text": tokens::spell(token)});
        event("content_block_delta", &json!({"type": "content_block_delta", "index": 0, "delta": delta}))
    }

    fn stop(&mut self, _index: usize, _finish: Finish) -> String {
        // The closing events say why.
        String::new()
    }

    fn close(&mut self, total: Usage, tallies: &[Tally]) -> String {
        let reason = tallies.first().map(|tally| tally.finish).unwrap_or_default().anthropic();
        let delta = json!({"type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": MessagesUsage::new(total)});
        event("content_block_stop", &json!({"type": "content_block_stop", "index": 0}))
            + &event("message_delta", &delta)
            + &event("message_stop", &json!({"type": "message_stop"}))
    }

    fn fail(&mut self, error: &ApiError) -> String {
        event("error", &error.anthropic())
    }
}
