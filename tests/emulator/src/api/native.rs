//! `POST /generate`: sglang's own route, text or token ids in, text and token ids out.

use serde_json::{Value, json};

use super::request::{Wanted, may_end_from, token_ids};
use super::run::{Job, Outcome, Tally, Usage};
use super::sse::{DONE, Frames, data};
use crate::error::ApiError;
use crate::finish::Finish;
use crate::tokens;

/// Output tokens when the request sets no limit, as sglang has it.
const DEFAULT_NEW_TOKENS: i64 = 128;

pub(super) fn read(body: &Value) -> Result<Wanted, ApiError> {
    let wrong =
        || ApiError::schema("1 validation error: either text or input_ids (a list of ids) is required");
    let prompt = match (body.get("text"), body.get("input_ids")) {
        (Some(Value::String(text)), None | Some(Value::Null)) => tokens::encode(text),
        (None | Some(Value::Null), Some(Value::Array(ids))) => token_ids(ids).ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    let none = json!({});
    let sampling = body.get("sampling_params").filter(|sampling| !sampling.is_null()).unwrap_or(&none);
    if !sampling.is_object() {
        return Err(ApiError::schema("1 validation error: sampling_params: Input should be an object"));
    }
    let limits = Wanted::read(sampling, Vec::new(), &["max_new_tokens"])?;
    let max_tokens =
        if sampling.get("max_new_tokens").is_some() { limits.max_tokens } else { DEFAULT_NEW_TOKENS };
    let wanted = Wanted::read(body, vec![prompt], &[])?;
    let unsupported = limits.unsupported.or(wanted.unsupported);
    let may_end_from = may_end_from(sampling, "min_new_tokens")?;
    Ok(Wanted { max_tokens, may_end_from, n: 1, unsupported, ..wanted })
}

/// What is known of a request whatever its state.
struct Meta<'a> {
    id: &'a str,
    usage: Usage,
}

impl Meta<'_> {
    fn show(&self, output: &[u32], finish: Option<Finish>) -> Value {
        let reason = match finish {
            None => Value::Null,
            Some(Finish::Length) => json!({"type": "length", "length": output.len()}),
            Some(other) => json!({"type": other.as_str()}),
        };
        json!({"text": tokens::decode(output), "output_ids": output, "meta_info": {
            "id": self.id, "finish_reason": reason, "prompt_tokens": self.usage.prompt,
            "completion_tokens": output.len(), "cached_tokens": self.usage.cached,
        }})
    }
}

pub(super) fn whole(job: &Job, outcome: &Outcome) -> Value {
    let Tally { tokens, finish, .. } = &outcome.tallies[0];
    Meta { id: &job.id, usage: outcome.usage }.show(tokens, Some(*finish))
}

/// The stream: one frame per token, each with everything so far, then the end marker.
pub(super) struct Stream {
    id: String,
    usage: Usage,
    output: Vec<u32>,
}

impl Stream {
    pub(super) fn new(job: &Job) -> Self {
        Self { id: job.id.clone(), usage: Usage::default(), output: Vec::new() }
    }

    fn frame(&self, finish: Option<Finish>) -> String {
        data(&Meta { id: &self.id, usage: self.usage }.show(&self.output, finish))
    }
}

impl Frames for Stream {
    fn open(&mut self, _index: usize, usage: Usage) -> String {
        self.usage = usage;
        String::new()
    }

    fn token(&mut self, _index: usize, token: u32, last: Option<Finish>) -> String {
        self.output.push(token);
        self.frame(last)
    }

    fn stop(&mut self, _index: usize, finish: Finish) -> String {
        self.frame(Some(finish))
    }

    fn close(&mut self, _total: Usage, _tallies: &[Tally]) -> String {
        DONE.to_owned()
    }
}
