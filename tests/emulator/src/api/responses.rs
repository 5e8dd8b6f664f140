//! `POST /v1/responses`.

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
    let wrong = || ApiError::schema("1 validation error: input: Field required, text or a list of items");
    let input = match body.get("input") {
        Some(text @ Value::String(_)) => vec![("user", text)],
        Some(Value::Array(items)) => turns(items)?,
        _ => return Err(wrong()),
    };
    let empty = input.iter().all(|(_, content)| content.as_str() == Some(""));
    let instructions = body.get("instructions").filter(|text| !text.is_null()).map(|text| ("system", text));
    let turns = instructions.into_iter().chain(input);
    let prompt = if empty { Vec::new() } else { render(turns, body.get("tools"), Ending::Reply) };
    let wanted = Wanted::read(body, vec![prompt], &["max_output_tokens"])?;
    // This API has no n, no token ids and no least number of tokens.
    let may_end_from = wanted.may_end_from.map(|_| 1);
    Ok(Wanted { n: 1, return_token_ids: false, may_end_from, ..wanted })
}

#[derive(Serialize)]
pub(super) struct Whole<'a> {
    id: &'a str,
    created_at: u64,
    incomplete_details: Option<Value>,
    model: &'a str,
    object: &'static str,
    output: Vec<Value>,
    parallel_tool_calls: bool,
    temperature: f64,
    tool_choice: &'static str,
    tools: [(); 0],
    top_p: f64,
    background: bool,
    max_output_tokens: usize,
    service_tier: &'static str,
    status: &'static str,
    truncation: &'static str,
    usage: Option<ResponsesUsage>,
    kv_transfer_params: Option<&'a HandedOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ec_transfer_params: Option<&'a Value>,
}

#[derive(Serialize)]
struct ResponsesUsage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: usize,
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: usize,
}

impl ResponsesUsage {
    fn new(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt,
            input_tokens_details: InputDetails { cached_tokens: usage.cached },
            output_tokens: usage.completion,
            output_tokens_details: OutputDetails { reasoning_tokens: 0 },
            total_tokens: usage.prompt + usage.completion,
        }
    }
}

pub(super) fn whole<'a>(job: &'a Job, outcome: &'a Outcome) -> Whole<'a> {
    let incomplete = outcome.tallies[0].finish.incomplete();
    let item = message(&job.id, &tokens::decode(&outcome.tallies[0].tokens));
    Whole {
        usage: Some(ResponsesUsage::new(outcome.usage)),
        kv_transfer_params: outcome.handle(),
        ec_transfer_params: outcome.encoded.as_ref(),
        status: if incomplete.is_some() { "incomplete" } else { "completed" },
        incomplete_details: incomplete.map(|reason| json!({"reason": reason})),
        output: vec![item],
        ..begun(&job.id, job.created, &job.model, job.wanted.limit())
    }
}

fn begun<'a>(id: &'a str, created_at: u64, model: &'a str, max_output_tokens: usize) -> Whole<'a> {
    Whole {
        id,
        created_at,
        incomplete_details: None,
        model,
        object: "response",
        output: Vec::new(),
        parallel_tool_calls: true,
        temperature: 1.0,
        tool_choice: "auto",
        tools: [],
        top_p: 1.0,
        background: false,
        max_output_tokens,
        service_tier: "auto",
        status: "in_progress",
        truncation: "disabled",
        usage: None,
        kv_transfer_params: None,
        ec_transfer_params: None,
    }
}

fn message(id: &str, text: &str) -> Value {
    json!({"id": item_id(id), "type": "message", "role": "assistant", "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": null}]})
}

fn item_id(id: &str) -> String {
    id.replacen("resp_", "msg_", 1)
}

/// The stream: created, in progress, item and part begin, deltas, their ends, completed with usage.
pub(super) struct Stream {
    id: String,
    model: String,
    created: u64,
    limit: usize,
    sequence: u64,
}

impl Stream {
    pub(super) fn new(job: &Job) -> Self {
        let (id, model) = (job.id.clone(), job.model.clone());
        Self { id, model, created: job.created, limit: job.wanted.limit(), sequence: 0 }
    }

    /// One event: its fields, its name and the running number.
    fn event(&mut self, name: &str, mut fields: Value) -> String {
        fields["type"] = name.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        event(name, &fields)
    }

    fn begun(&self) -> Whole<'_> {
        begun(&self.id, self.created, &self.model, self.limit)
    }

    fn part(&self) -> Value {
        json!({"output_index": 0, "content_index": 0, "item_id": item_id(&self.id)})
    }
}

impl Frames for Stream {
    fn open(&mut self, _index: usize, _usage: Usage) -> String {
        let response = json!({"response": self.begun()});
        let item = json!({"output_index": 0, "item": {"id": item_id(&self.id), "type": "message",
            "role": "assistant", "content": [], "status": "in_progress"}});
        let mut part = self.part();
        part["part"] = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
        self.event("response.created", response.clone())
            + &self.event("response.in_progress", response)
            + &self.event("response.output_item.added", item)
            + &self.event("response.content_part.added", part)
    }

    fn token(&mut self, _index: usize, token: u32, _last: Option<Finish>) -> String {
        let mut delta = self.part();
        delta["delta"] = tokens::spell(token).into();
        delta["logprobs"] = json!([]);
        self.event("response.output_text.delta", delta)
    }

    fn stop(&mut self, _index: usize, _finish: Finish) -> String {
        String::new()
    }

    fn close(&mut self, total: Usage, tallies: &[Tally]) -> String {
        let text = tallies.first().map(|tally| tokens::decode(&tally.tokens)).unwrap_or_default();
        let item = message(&self.id, &text);
        let mut done = self.part();
        done["text"] = text.as_str().into();
        let mut part = self.part();
        part["part"] = item["content"][0].clone();
        // As vLLM's stream has it, the closing response says completed even when the limit ended it.
        let response = json!({"response": Whole {
            status: "completed",
            output: vec![item.clone()],
            usage: Some(ResponsesUsage::new(total)),
            ..self.begun()
        }});
        self.event("response.output_text.done", done)
            + &self.event("response.content_part.done", part)
            + &self.event("response.output_item.done", json!({"output_index": 0, "item": item}))
            + &self.event("response.completed", response)
    }
}
