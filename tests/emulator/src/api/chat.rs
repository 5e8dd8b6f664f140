//! `POST /v1/chat/completions`.

use serde::Serialize;
use serde_json::Value;

use super::request::{Wanted, flag, switch};
use super::run::{Job, OpenAiUsage, Outcome, Tally, Usage};
use super::sse::{DONE, Frames, data};
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
    let ending = Ending::of(switch(body, "add_generation_prompt")?, flag(body, "continue_final_message")?)?;
    let prompt = render(turns(messages)?, body.get("tools"), ending);
    Wanted::read(body, vec![prompt], &["max_completion_tokens", "max_tokens"])
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
    prompt_logprobs: Option<()>,
    prompt_token_ids: Option<Vec<u32>>,
    kv_transfer_params: Option<&'a HandedOut>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ec_transfer_params: Option<&'a Value>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: usize,
    message: Message,
    logprobs: Option<()>,
    finish_reason: &'static str,
    stop_reason: Option<()>,
    token_ids: Option<&'a [u32]>,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: Option<()>,
    tool_calls: [(); 0],
    reasoning: Option<()>,
}

pub(super) fn whole<'a>(job: &'a Job, outcome: &'a Outcome) -> Whole<'a> {
    let tokens = &outcome.tallies[0].tokens;
    let choice = |index| Choice {
        index,
        message: Message {
            role: "assistant",
            content: tokens::decode(tokens),
            refusal: None,
            tool_calls: [],
            reasoning: None,
        },
        logprobs: None,
        finish_reason: outcome.tallies[0].finish.as_str(),
        stop_reason: None,
        token_ids: job.wanted.return_token_ids.then_some(tokens.as_slice()),
    };
    Whole {
        id: &job.id,
        object: "chat.completion",
        created: job.created,
        model: &job.model,
        choices: job.wanted.choices(0).map(choice).collect(),
        service_tier: None,
        system_fingerprint: None,
        usage: outcome.usage.openai(),
        prompt_logprobs: None,
        prompt_token_ids: job.shown_prompt(0),
        kv_transfer_params: outcome.handle(),
        ec_transfer_params: outcome.encoded.as_ref(),
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
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<OpenAiUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_transfer_params: Option<&'a HandedOut>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
    token_ids: Option<[u32; 1]>,
}

#[derive(Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    content: String,
}

/// The stream: a frame with the role, one per token and choice, usage if asked for, the end marker.
pub(super) struct Stream {
    id: String,
    model: String,
    created: u64,
    choices: usize,
    show_ids: bool,
    include_usage: bool,
    prompt_ids: Option<Vec<u32>>,
}

impl Stream {
    pub(super) fn new(job: &Job) -> Self {
        Self {
            id: job.id.clone(),
            model: job.model.clone(),
            created: job.created,
            choices: job.wanted.choices(0).len(),
            show_ids: job.wanted.return_token_ids,
            include_usage: job.wanted.include_usage,
            prompt_ids: job.shown_prompt(0),
        }
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> Chunk<'_> {
        let Self { id, model, created, .. } = self;
        let object = "chat.completion.chunk";
        Chunk {
            id,
            object,
            created: *created,
            model,
            choices,
            prompt_token_ids: None,
            usage: None,
            kv_transfer_params: None,
        }
    }
}

impl Stream {
    fn each_choice(&self, text: &str, finish: Option<Finish>, token_ids: Option<[u32; 1]>) -> String {
        let mut frames = String::new();
        for index in 0..self.choices {
            let delta = Delta { role: None, content: text.to_owned() };
            let finish_reason = finish.map(Finish::as_str);
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason, token_ids };
            frames.push_str(&data(&self.chunk(vec![choice])));
        }
        frames
    }
}

impl Frames for Stream {
    fn open(&mut self, _index: usize, _usage: Usage) -> String {
        let mut frames = String::new();
        for index in 0..self.choices {
            let delta = Delta { role: Some("assistant"), content: String::new() };
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None, token_ids: None };
            let prompt_token_ids = self.prompt_ids.take();
            frames.push_str(&data(&Chunk { prompt_token_ids, ..self.chunk(vec![choice]) }));
        }
        frames
    }

    fn token(&mut self, _index: usize, token: u32, last: Option<Finish>) -> String {
        let ids = self.show_ids.then_some([token]);
        self.each_choice(&tokens::spell(token), last, ids)
    }

    fn stop(&mut self, _index: usize, finish: Finish) -> String {
        self.each_choice("", Some(finish), None)
    }

    fn close(&mut self, total: Usage, tallies: &[Tally]) -> String {
        let handle = tallies.first().and_then(|tally| tally.handle.as_ref());
        let kv_transfer_params = handle.filter(|handle| handle.in_streams());
        let usage = self.include_usage.then(|| total.openai());
        let mut frames = String::new();
        if usage.is_some() || kv_transfer_params.is_some() {
            frames.push_str(&data(&Chunk { usage, kv_transfer_params, ..self.chunk(vec![]) }));
        }
        frames + DONE
    }
}
