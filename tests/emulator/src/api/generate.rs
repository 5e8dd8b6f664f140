//! `POST /inference/v1/generate`: token ids in, token ids out.

use serde::Serialize;
use serde_json::Value;

use super::request::{Wanted, token_ids};
use super::run::{Job, OpenAiUsage, Outcome, Tally, Usage};
use super::sse::{DONE, Frames, data};
use crate::error::ApiError;
use crate::finish::Finish;
use crate::handoff::HandedOut;

pub(super) fn read(body: &Value) -> Result<Wanted, ApiError> {
    let ids =
        body.get("token_ids").and_then(Value::as_array).and_then(|ids| token_ids(ids)).ok_or_else(|| {
            ApiError::schema("1 validation error: token_ids: Field required, a list of ids")
        })?;
    let sampling = body
        .get("sampling_params")
        .filter(|sampling| sampling.is_object())
        .ok_or_else(|| ApiError::schema("1 validation error: sampling_params: Field required, an object"))?;
    let limits = Wanted::read(sampling, Vec::new(), &["max_tokens"])?;
    let wanted = Wanted::read(body, vec![ids], &[])?;
    let unsupported = limits.unsupported.or(wanted.unsupported);
    let Wanted { max_tokens, may_end_from, n, .. } = limits;
    Ok(Wanted { max_tokens, may_end_from, n, unsupported, ..wanted })
}

#[derive(Serialize)]
pub(super) struct Whole<'a> {
    request_id: &'a str,
    model: &'a str,
    created: u64,
    usage: OpenAiUsage,
    prompt_logprobs: Option<()>,
    prompt_token_ids: Option<Vec<u32>>,
    kv_transfer_params: Option<&'a HandedOut>,
    output_mode: &'static str,
    choices: Vec<Choice<'a>>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    finish_reason: Option<&'static str>,
    stop_reason: Option<()>,
    token_ids: &'a [u32],
    logprobs: Option<()>,
}

impl<'a> Choice<'a> {
    fn new(index: usize, token_ids: &'a [u32], finish: Option<Finish>) -> Self {
        Self {
            index,
            finish_reason: finish.map(Finish::as_str),
            stop_reason: None,
            token_ids,
            logprobs: None,
        }
    }
}

pub(super) fn whole<'a>(job: &'a Job, outcome: &'a Outcome) -> Whole<'a> {
    let Tally { tokens, finish, .. } = &outcome.tallies[0];
    Whole {
        request_id: &job.id,
        model: &job.model,
        created: job.created,
        usage: outcome.usage.openai(),
        prompt_logprobs: None,
        prompt_token_ids: job.shown_prompt(0),
        kv_transfer_params: outcome.handle(),
        output_mode: "tokens",
        choices: job.wanted.choices(0).map(|index| Choice::new(index, tokens, Some(*finish))).collect(),
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    request_id: &'a str,
    usage: Option<OpenAiUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    output_mode: &'static str,
    choices: Vec<Choice<'a>>,
}

/// The stream: one frame per token and choice, usage if asked for, the end marker.
pub(super) struct Stream {
    id: String,
    wanted: Wanted,
    prompt_ids: Option<Vec<u32>>,
}

impl Stream {
    pub(super) fn new(job: &Job) -> Self {
        Self { id: job.id.clone(), wanted: job.wanted.clone(), prompt_ids: job.shown_prompt(0) }
    }
}

impl Stream {
    fn each_choice(&mut self, index: usize, token_ids: &[u32], finish: Option<Finish>) -> String {
        let mut frames = String::new();
        for choice in self.wanted.choices(index) {
            frames.push_str(&data(&Chunk {
                request_id: &self.id,
                usage: None,
                prompt_token_ids: self.prompt_ids.take(),
                output_mode: "tokens",
                choices: vec![Choice::new(choice, token_ids, finish)],
            }));
        }
        frames
    }
}

impl Frames for Stream {
    fn open(&mut self, _index: usize, _usage: Usage) -> String {
        String::new()
    }

    fn token(&mut self, index: usize, token: u32, last: Option<Finish>) -> String {
        self.each_choice(index, &[token], last)
    }

    fn stop(&mut self, index: usize, finish: Finish) -> String {
        self.each_choice(index, &[], Some(finish))
    }

    fn close(&mut self, total: Usage, _tallies: &[Tally]) -> String {
        let mut frames = String::new();
        if self.wanted.include_usage {
            let (request_id, usage) = (self.id.as_str(), Some(total.openai()));
            let (prompt_token_ids, output_mode, choices) = (None, "tokens", vec![]);
            frames.push_str(&data(&Chunk { request_id, usage, prompt_token_ids, output_mode, choices }));
        }
        frames + DONE
    }
}
