//! Runs a request's prompts through the engine, to a whole answer or frame by frame.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::now;
use super::request::Wanted;
use super::sse::Frames;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::http::body::{Body, produced};
use crate::params::Handle;
use crate::sequence::{Plan, Sequence};

/// A request that passed all checks.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) created: u64,
    pub(crate) wanted: Wanted,
}

impl Job {
    pub(crate) fn new(id: String, model: String, wanted: Wanted) -> Self {
        Self { id, model, created: now(), wanted }
    }

    /// The prompt's ids, if the request asked to see them.
    pub(crate) fn shown_prompt(&self, index: usize) -> Option<Vec<u32>> {
        self.wanted.return_token_ids.then(|| self.wanted.prompts[index].clone())
    }
}

/// Token counts of one prompt or of a whole request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    pub(crate) completion: usize,
    pub(crate) cached: usize,
}

impl Usage {
    /// The shape of the `OpenAI` routes.
    pub(crate) fn openai(self) -> OpenAiUsage {
        OpenAiUsage {
            prompt_tokens: self.prompt,
            total_tokens: self.prompt + self.completion,
            completion_tokens: self.completion,
            prompt_tokens_details: PromptDetails { cached_tokens: self.cached },
        }
    }
}

/// `usage` of chat, completions and generate.
#[derive(Serialize)]
pub(crate) struct OpenAiUsage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

/// The output of one prompt.
pub(crate) struct Tally {
    pub(crate) tokens: Vec<u32>,
    pub(crate) handle: Option<Handle>,
}

/// The output of a whole request.
pub(crate) struct Outcome {
    pub(crate) tallies: Vec<Tally>,
    pub(crate) usage: Usage,
}

impl Outcome {
    /// The handle in the answer: the first prompt's, as vLLM has it.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.tallies.first().and_then(|tally| tally.handle.as_ref())
    }
}

/// Generates everything, then returns.
pub(crate) async fn to_end(engine: &Arc<Engine>, job: &Job, plans: Vec<Plan>) -> Result<Outcome, ApiError> {
    generate(engine, job, plans, &mut Collect).await
}

/// Generates while the body is polled; dropping the body aborts the request.
pub(crate) fn into_frames(
    engine: Arc<Engine>,
    job: Job,
    plans: Vec<Plan>,
    mut frames: Box<dyn Frames>,
) -> Body {
    // One slot: the next token is made only when the one before was taken.
    let (sender, receiver) = mpsc::channel(1);
    let work = async move {
        let mut sink = Push { frames: &mut *frames, sender: &sender };
        let last = match generate(&engine, &job, plans, &mut sink).await {
            Ok(outcome) => frames.close(outcome.usage, &outcome.tallies),
            Err(error) => frames.fail(&error),
        };
        push(&sender, last).await;
    };
    produced(work, receiver)
}

/// Where tokens go as they come.
trait Sink {
    fn open(&mut self, index: usize, usage: Usage) -> impl Future<Output = ()> + Send;
    fn token(&mut self, index: usize, token: u32, last: bool) -> impl Future<Output = ()> + Send;
}

/// Nowhere: the whole answer is made from the tallies.
struct Collect;

impl Sink for Collect {
    async fn open(&mut self, _index: usize, _usage: Usage) {}
    async fn token(&mut self, _index: usize, _token: u32, _last: bool) {}
}

/// Into the body, as frames.
struct Push<'a> {
    frames: &'a mut dyn Frames,
    sender: &'a mpsc::Sender<Bytes>,
}

async fn push(sender: &mpsc::Sender<Bytes>, frames: String) {
    if !frames.is_empty() {
        // The receiver lives in the same body as this work and is dropped with it.
        let _ = sender.send(frames.into()).await;
    }
}

impl Sink for Push<'_> {
    async fn open(&mut self, index: usize, usage: Usage) {
        let frames = self.frames.open(index, usage);
        push(self.sender, frames).await;
    }

    async fn token(&mut self, index: usize, token: u32, last: bool) {
        let frames = self.frames.token(index, token, last);
        push(self.sender, frames).await;
    }
}

/// One prompt after the other.
async fn generate(
    engine: &Arc<Engine>,
    job: &Job,
    plans: Vec<Plan>,
    sink: &mut impl Sink,
) -> Result<Outcome, ApiError> {
    let limit = job.wanted.limit();
    let mut outcome = Outcome { tallies: Vec::new(), usage: Usage::default() };
    for (index, (prompt, plan)) in job.wanted.prompts.iter().zip(plans).enumerate() {
        let id = format!("{}-{index}", job.id);
        let mut sequence = Sequence::start(engine, id, prompt, limit, plan).await?;
        let usage = Usage { prompt: prompt.len(), completion: 0, cached: sequence.cached_tokens };
        sink.open(index, usage).await;
        let mut tokens = Vec::with_capacity(limit.min(1024));
        while let Some(token) = sequence.next().await {
            tokens.push(token);
            sink.token(index, token, tokens.len() == limit).await;
        }
        outcome.usage.prompt += usage.prompt;
        outcome.usage.completion += tokens.len() * job.wanted.choices(index).len();
        outcome.usage.cached += usage.cached;
        outcome.tallies.push(Tally { tokens, handle: sequence.finish() });
    }
    Ok(outcome)
}
