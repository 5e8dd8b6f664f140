//! Runs a request's prompts through the engine, to a whole answer or frame by frame.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::now;
use super::request::Wanted;
use super::sse::Frames;
use crate::encoder::{self, Part};
use crate::engine::Engine;
use crate::error::ApiError;
use crate::finish::Finish;
use crate::handoff::{HandedOut, Plan};
use crate::http::body::{Body, produced};
use crate::sequence::Sequence;

/// A request that passed all checks.
pub(crate) struct Job {
    pub(crate) id: String,
    /// A name of the client's own by which it may abort the request.
    pub(crate) rid: Option<String>,
    pub(crate) model: String,
    pub(crate) created: u64,
    pub(crate) wanted: Wanted,
    /// The part that the answer is to hand out encoded.
    pub(crate) encodes: Option<Part>,
}

impl Job {
    pub(crate) fn new(id: String, rid: Option<String>, model: String, wanted: Wanted) -> Self {
        Self { id, rid, model, created: now(), wanted, encodes: None }
    }

    /// The id of the prompt at `index`, as the engine has it.
    fn prompt_id(&self, index: usize) -> String {
        format!("{}-{index}", self.id)
    }

    /// Every name that aborts this request.
    fn names(&self) -> Vec<String> {
        let prompts = (0..self.wanted.prompts.len()).map(|index| self.prompt_id(index));
        prompts.chain([self.id.clone()]).chain(self.rid.clone()).collect()
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
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) tokens: Vec<u32>,
    pub(crate) handle: Option<HandedOut>,
    pub(crate) finish: Finish,
}

/// The output of a whole request.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) tallies: Vec<Tally>,
    pub(crate) usage: Usage,
    /// Where an encoded part can be fetched.
    pub(crate) encoded: Option<Value>,
}

impl Outcome {
    /// The handle in the answer: the first prompt's, as vLLM has it.
    pub(crate) fn handle(&self) -> Option<&HandedOut> {
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
    fn token(&mut self, index: usize, token: u32, last: Option<Finish>) -> impl Future<Output = ()> + Send;
    fn stop(&mut self, index: usize, finish: Finish) -> impl Future<Output = ()> + Send;
}

/// Nowhere: the whole answer is made from the tallies.
struct Collect;

impl Sink for Collect {
    async fn open(&mut self, _index: usize, _usage: Usage) {}
    async fn token(&mut self, _index: usize, _token: u32, _last: Option<Finish>) {}
    async fn stop(&mut self, _index: usize, _finish: Finish) {}
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

    async fn token(&mut self, index: usize, token: u32, last: Option<Finish>) {
        let frames = self.frames.token(index, token, last);
        push(self.sender, frames).await;
    }

    async fn stop(&mut self, index: usize, finish: Finish) {
        let frames = self.frames.stop(index, finish);
        push(self.sender, frames).await;
    }
}

/// Runs until the last token or until somebody aborts the request; then what was made so far is the answer.
async fn generate(
    engine: &Arc<Engine>,
    job: &Job,
    plans: Vec<Plan>,
    sink: &mut impl Sink,
) -> Result<Outcome, ApiError> {
    let mut outcome = Outcome::default();
    let abortable = engine.aborts.enter(job.names());
    let done = tokio::select! {
        done = each_prompt(engine, job, plans, sink, &mut outcome) => Some(done?),
        () = abortable.asked() => None,
    };
    if done.is_some() {
        outcome.encoded = job.encodes.as_ref().and_then(|part| encoder::run(engine, part));
    } else {
        if outcome.tallies.is_empty() {
            outcome.tallies.push(Tally::default());
        }
        let last = outcome.tallies.len() - 1;
        outcome.tallies[last].finish = Finish::Abort;
        sink.stop(last, Finish::Abort).await;
    }
    Ok(outcome)
}

/// Answers a prompt that is not to be computed with no token.
async fn decline(index: usize, tokens: usize, sink: &mut impl Sink, outcome: &mut Outcome) {
    let usage = Usage { prompt: tokens, ..Usage::default() };
    outcome.usage.prompt += tokens;
    outcome.tallies.push(Tally { finish: Finish::CacheThreshold, ..Tally::default() });
    sink.open(index, usage).await;
    sink.stop(index, Finish::CacheThreshold).await;
}

/// One prompt after the other.
async fn each_prompt(
    engine: &Arc<Engine>,
    job: &Job,
    plans: Vec<Plan>,
    sink: &mut impl Sink,
    outcome: &mut Outcome,
) -> Result<(), ApiError> {
    let (length, finish) = job.wanted.end(engine.config().stop_after);
    for (index, (prompt, plan)) in job.wanted.prompts.iter().zip(plans).enumerate() {
        let started = Sequence::start(engine, job.prompt_id(index), prompt, length, plan).await?;
        let Some(mut sequence) = started else {
            decline(index, prompt.len(), sink, outcome).await;
            continue;
        };
        let usage = Usage { prompt: prompt.len(), completion: 0, cached: sequence.cached_tokens };
        outcome.usage.prompt += usage.prompt;
        outcome.usage.cached += usage.cached;
        outcome.tallies.push(Tally::default());
        sink.open(index, usage).await;
        while let Some(token) = sequence.next().await {
            outcome.usage.completion += job.wanted.choices(index).len();
            let tokens = &mut outcome.tallies[index].tokens;
            tokens.push(token);
            let last = (tokens.len() == length).then_some(finish);
            sink.token(index, token, last).await;
        }
        outcome.tallies[index].finish = finish;
        outcome.tallies[index].handle = sequence.finish(finish)?;
    }
    Ok(())
}
