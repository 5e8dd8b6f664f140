//! `POST /v1/completions`: text, token ids, or a list of either.

use serde::Serialize;
use serde_json::Value;

use super::request::{Wanted, token_ids};
use super::run::{Job, OpenAiUsage, Outcome, Tally, Usage};
use super::sse::{DONE, Frames, data};
use crate::error::ApiError;
use crate::finish::Finish;
use crate::handoff::HandedOut;
use crate::tokens;

pub(super) fn read(body: &Value) -> Result<Wanted, ApiError> {
    Wanted::read(body, prompts(body.get("prompt"))?, &["max_tokens"])
}

fn prompts(prompt: Option<&Value>) -> Result<Vec<Vec<u32>>, ApiError> {
    let wrong =
        || ApiError::schema("1 validation error: prompt: Input should be text, token ids or a list of them");
    match prompt {
        Some(Value::String(text)) => Ok(vec![tokens::encode(text)]),
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_number) => {
            Ok(vec![token_ids(items).ok_or_else(wrong)?])
        }
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(tokens::encode(text)),
                Value::Array(ids) => token_ids(ids).ok_or_else(wrong),
                _ => Err(wrong()),
            })
            .collect(),
        _ => Err(wrong()),
    }
}

#[derive(Serialize)]
pub(super) struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<Choice<'a>>,
    service_tier: Option<()>,
    system_fingerprint: Option<()>,
    usage: OpenAiUsage,
    kv_transfer_params: Option<&'a HandedOut>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    text: String,
    logprobs: Option<()>,
    finish_reason: &'static str,
    stop_reason: Option<()>,
    token_ids: Option<&'a [u32]>,
    prompt_logprobs: Option<()>,
    prompt_token_ids: Option<Vec<u32>>,
}

pub(super) fn whole<'a>(job: &'a Job, outcome: &'a Outcome) -> Whole<'a> {
    let mut choices = Vec::new();
    for (prompt, tally) in outcome.tallies.iter().enumerate() {
        choices.extend(job.wanted.choices(prompt).map(|index| Choice {
            index,
            text: tokens::decode(&tally.tokens),
            logprobs: None,
            finish_reason: tally.finish.as_str(),
            stop_reason: None,
            token_ids: job.wanted.return_token_ids.then_some(tally.tokens.as_slice()),
            prompt_logprobs: None,
            prompt_token_ids: job.shown_prompt(prompt),
        }));
    }
    Whole {
        id: &job.id,
        object: "text_completion",
        created: job.created,
        model: &job.model,
        choices,
        service_tier: None,
        system_fingerprint: None,
        usage: outcome.usage.openai(),
        kv_transfer_params: outcome.handle(),
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<OpenAiUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_transfer_params: Option<&'a HandedOut>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    text: String,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<()>,
    prompt_token_ids: Option<Vec<u32>>,
    token_ids: Option<[u32; 1]>,
}

/// The stream: one frame per token and choice, usage if asked for, the end marker.
pub(super) struct Stream {
    id: String,
    model: String,
    created: u64,
    wanted: Wanted,
    begun: bool,
}

impl Stream {
    pub(super) fn new(job: &Job) -> Self {
        let (id, model) = (job.id.clone(), job.model.clone());
        Self { id, model, created: job.created, wanted: job.wanted.clone(), begun: false }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> Chunk<'_> {
        let Self { id, model, created, .. } = self;
        Chunk {
            id,
            object: "text_completion",
            created: *created,
            model,
            choices,
            usage: None,
            kv_transfer_params: None,
        }
    }
}

impl Stream {
    fn each_choice(&mut self, index: usize, token: Option<u32>, finish: Option<Finish>) -> String {
        let show = self.wanted.return_token_ids;
        let first = !std::mem::replace(&mut self.begun, true);
        let mut frames = String::new();
        for choice in self.wanted.choices(index) {
            let choice = ChunkChoice {
                index: choice,
                text: token.map(tokens::spell).unwrap_or_default(),
                logprobs: None,
                finish_reason: finish.map(Finish::as_str),
                stop_reason: None,
                prompt_token_ids: (show && first).then(|| self.wanted.prompts[index].clone()),
                token_ids: token.filter(|_| show).map(|token| [token]),
            };
            frames.push_str(&data(&self.chunk(vec![choice])));
        }
        frames
    }
}

impl Frames for Stream {
    fn open(&mut self, _index: usize, _usage: Usage) -> String {
        self.begun = false;
        String::new()
    }

    fn token(&mut self, index: usize, token: u32, last: Option<Finish>) -> String {
        self.each_choice(index, Some(token), last)
    }

    fn stop(&mut self, index: usize, finish: Finish) -> String {
        self.each_choice(index, None, Some(finish))
    }

    fn close(&mut self, total: Usage, tallies: &[Tally]) -> String {
        let handle = tallies.first().and_then(|tally| tally.handle.as_ref());
        let kv_transfer_params = handle.filter(|handle| handle.in_streams());
        let usage = self.wanted.include_usage.then(|| total.openai());
        let mut frames = String::new();
        if usage.is_some() || kv_transfer_params.is_some() {
            frames.push_str(&data(&Chunk { usage, kv_transfer_params, ..self.chunk(vec![]) }));
        }
        frames + DONE
    }
}
