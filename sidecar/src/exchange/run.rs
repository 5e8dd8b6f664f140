//! Carries out what the core commands, one event at a time.
//!
//! The race guarded here: the client can leave at any await. Everything that must not be lost then (the core, a prefill
//! leg whose answer may be on its way, KV that is held) lives in [`Run`], and dropping an unfinished run hands it to the
//! background, where the same steps go on without anybody to answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, response};
use kvferry_handoff::{Cause, Command, Commands, Event, Handoff, Held, Leg, Stage, Time};

use super::answer::WholeBody;
use super::legs::{DecodeEnd, LegRequest, PrefillEnd, decode, prefill, release};
use crate::connector::KvParams;
use crate::error::{Broken, Error};
use crate::record::Record;
use crate::request::headers::unshared;
use crate::request::route::Api;
use crate::upstream::Sent;
use crate::worker::Worker;

type Task = Pin<Box<dyn Future<Output = TaskEnd> + Send>>;

enum TaskEnd {
    Prefill(PrefillEnd),
    Decode(DecodeEnd),
    Release(bool),
}

/// What the client gets.
pub(super) enum Reply {
    /// An error of ours.
    Error(Error),
    /// An engine's own error, as it is; with the outcome to log.
    Refused(Sent, &'static str),
    /// A complete answer.
    Whole(response::Parts, WholeBody),
    /// An answer that flows.
    Stream(Sent),
}

/// A request under way.
pub(super) struct Run {
    /// `None` only when taken by `end` or by the destructor.
    state: Option<State>,
    /// What is measured.
    pub(super) record: Record,
}

struct State {
    worker: Arc<Worker>,
    core: Handoff,
    /// Needed until the decode leg is sent.
    request: Option<Arc<LegRequest>>,
    /// The leg or release attempt that runs.
    task: Option<Task>,
    /// When the running leg was sent.
    sent_at: Instant,
    /// What prefill handed out, for the decode leg and for a release.
    kv: Option<KvParams>,
    cached_tokens: u64,
    /// What the last leg brought for the client.
    brought: Option<Brought>,
    /// For releases: which request it was, and the right to talk to the engine.
    id: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
    prefill_target: String,
}

enum Brought {
    Sent(Sent),
    Whole(response::Parts, WholeBody),
    Error(Error),
}

impl Run {
    /// Starts with the prefill leg.
    pub(super) fn start(worker: Arc<Worker>, request: LegRequest, mut record: Record) -> Self {
        let (core, commands) = Handoff::start(worker.settings.limits, worker.now());
        record.target = request.target.to_string();
        record.request_id = request.id().as_ref().map(unshared);
        let mut state = State {
            core,
            task: None,
            sent_at: Instant::now(),
            kv: None,
            cached_tokens: 0,
            brought: None,
            id: record.request_id.clone(),
            authorization: request.headers.get(http::header::AUTHORIZATION).map(unshared),
            prefill_target: record.target.clone(),
            request: Some(Arc::new(request)),
            worker,
        };
        let reply = state.follow(commands, &mut record);
        debug_assert!(reply.is_none(), "nothing can be answered before anything happened");
        Self { state: Some(state), record }
    }

    /// Waits for the next event and follows what the core makes of it. Returns the answer when there is one.
    pub(super) async fn step(&mut self) -> Option<Reply> {
        self.state.as_mut().expect("only a finished run has no state").step(&mut self.record).await
    }

    /// Takes an event that the answer's body saw.
    pub(super) fn handle(&mut self, event: Event) -> Commands {
        let state = self.state.as_mut().expect("only a finished run has no state");
        let commands = state.core.handle(event, state.worker.now());
        if state.core.stage() == Stage::Streaming {
            // Nothing is left to release: what a release would need goes, since streams live long and are many.
            (state.kv, state.id, state.authorization) = (None, None, None);
        }
        commands
    }

    /// Where the request is.
    pub(super) fn stage(&self) -> Stage {
        self.state.as_ref().map_or(Stage::Done, |state| state.core.stage())
    }

    /// When to come back with a tick.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let state = self.state.as_ref()?;
        state.core.wake_at().map(|time| state.worker.instant(time))
    }

    /// What prefill had cached.
    pub(super) fn cached_tokens(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.cached_tokens)
    }

    /// The request's API.
    pub(super) fn api(&self) -> Api {
        self.record.api()
    }

    /// Hands out the record; what is left to do goes on in the background.
    pub(super) fn end(mut self) -> Record {
        self.leave();
        let empty = Record::silent(self.record.api());
        std::mem::replace(&mut self.record, empty)
    }

    /// Nobody waits for an answer any more.
    fn leave(&mut self) {
        let Some(mut state) = self.state.take() else {
            return;
        };
        let now = state.worker.now();
        let commands = state.core.handle(Event::ClientLeft, now);
        let mut nobody = Record::silent(self.record.api());
        drop(state.follow(commands, &mut nobody));
        if !state.core.is_done() {
            let worker = Arc::clone(&state.worker);
            worker.in_background(async move {
                while !state.core.is_done() {
                    drop(state.step(&mut nobody).await);
                }
            });
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.leave();
    }
}

impl State {
    async fn step(&mut self, record: &mut Record) -> Option<Reply> {
        let wake = self.core.wake_at();
        let event = match (self.task.as_mut(), wake) {
            (Some(task), None) => {
                let end = task.await;
                self.ended(end, record)
            }
            (Some(task), Some(wake)) => {
                let wake = tokio::time::Instant::from_std(self.worker.instant(wake));
                match tokio::time::timeout_at(wake, task).await {
                    Ok(end) => self.ended(end, record),
                    Err(_) => Event::Tick,
                }
            }
            (None, Some(wake)) => {
                tokio::time::sleep_until(self.worker.instant(wake).into()).await;
                Event::Tick
            }
            (None, None) => {
                unreachable!("a request that is not over has a leg that runs or a time to wake at")
            }
        };
        // A timer may fire a little early; the core must not be asked again and again for the same moment.
        let now = match (&event, wake) {
            (Event::Tick, Some(wake)) => self.worker.now().max(wake),
            _ => self.worker.now(),
        };
        self.handle_all(event, now, record)
    }

    /// A whole answer is three events at once: begun, produced, ended.
    fn handle_all(&mut self, event: Event, now: Time, record: &mut Record) -> Option<Reply> {
        let started = matches!(event, Event::DecodeStarted);
        let releasing = self.core.stage() == Stage::Releasing;
        let released = matches!(event, Event::ReleaseEnded(true));
        let commands = self.core.handle(event, now);
        if releasing && self.core.is_done() && !released {
            tracing::warn!(
                target = self.prefill_target,
                request_id = self.id.as_ref().and_then(|id| id.to_str().ok()),
                "the decode engine did not take the release of KV; it stays held until the prefill engine's lease ends"
            );
        }
        if started && matches!(self.brought, Some(Brought::Whole(..))) {
            for event in [Event::DecodeProduced, Event::DecodeEnded] {
                let none = self.core.handle(event, now);
                debug_assert!(
                    none.into_iter().next().is_none(),
                    "an answer that is complete needs nothing more"
                );
            }
        }
        self.follow(commands, record)
    }

    /// Turns a finished task into the core's event, and keeps what it brought.
    fn ended(&mut self, end: TaskEnd, record: &mut Record) -> Event {
        self.task = None;
        match end {
            TaskEnd::Prefill(end) => {
                record.prefill = Some(self.sent_at.elapsed());
                match end {
                    PrefillEnd::Accepted(answer) => {
                        if answer.kv.is_none() {
                            tracing::warn!(
                                target = self.prefill_target,
                                "warning: missing 'kv_transfer_params' field in prefiller response"
                            );
                        }
                        record.cached_tokens = Some(answer.cached_tokens);
                        self.cached_tokens = answer.cached_tokens;
                        let held: Option<Held> = answer.kv.is_some().then(|| self.worker.ledger.hold());
                        self.kv = answer.kv;
                        Event::PrefillAccepted(held)
                    }
                    PrefillEnd::Refused(sent) => {
                        self.brought = Some(Brought::Sent(sent));
                        Event::PrefillRefused
                    }
                    PrefillEnd::Failed(error) => {
                        self.brought = Some(Brought::Error(error));
                        Event::PrefillFailed
                    }
                }
            }
            TaskEnd::Decode(end) => match end {
                DecodeEnd::Stream(sent) => {
                    self.brought = Some(Brought::Sent(sent));
                    Event::DecodeStarted
                }
                DecodeEnd::Whole(head, body) => {
                    self.brought = Some(Brought::Whole(head, body));
                    Event::DecodeStarted
                }
                DecodeEnd::Refused(sent) => {
                    self.brought = Some(Brought::Sent(sent));
                    Event::DecodeRefused
                }
                DecodeEnd::Failed(error) => {
                    self.brought = Some(Brought::Error(error));
                    Event::DecodeFailed
                }
            },
            TaskEnd::Release(taken) => Event::ReleaseEnded(taken),
        }
    }

    fn follow(&mut self, commands: Commands, record: &mut Record) -> Option<Reply> {
        let mut reply = None;
        for command in commands {
            match command {
                Command::SendPrefill => {
                    let (worker, request) = (Arc::clone(&self.worker), self.request());
                    self.run(async move { TaskEnd::Prefill(prefill(worker, request).await) });
                }
                Command::SendDecode => {
                    let (worker, request) = (Arc::clone(&self.worker), self.request());
                    let (kv, cached) = (self.kv.clone(), self.cached_tokens);
                    record.decode_sent = Some(Instant::now());
                    self.run(async move { TaskEnd::Decode(decode(worker, request, kv, cached).await) });
                    // The leg holds the last reference: the body goes as soon as it is sent and answered.
                    self.request = None;
                }
                Command::Release => {
                    let (id, authorization) = (self.id.clone(), self.authorization.clone());
                    let worker = Arc::clone(&self.worker);
                    let kv = self.kv.as_ref().expect("KV is released only after prefill handed it out");
                    let request = worker.settings.connector.release(kv);
                    self.run(
                        async move { TaskEnd::Release(release(worker, request, id, authorization).await) },
                    );
                }
                Command::CancelPrefill | Command::CancelDecode | Command::CancelRelease => self.task = None,
                Command::AnswerPrefill | Command::AnswerDecode => {
                    let refused =
                        if command == Command::AnswerPrefill { "prefill_refused" } else { "decode_refused" };
                    reply = self.brought.take().map(|brought| match brought {
                        Brought::Sent(sent) if sent.response.status().is_success() => Reply::Stream(sent),
                        Brought::Sent(sent) => Reply::Refused(sent, refused),
                        Brought::Whole(head, body) => Reply::Whole(head, body),
                        Brought::Error(error) => Reply::Error(error),
                    });
                }
                Command::AnswerError(cause) | Command::BreakAnswer(cause) => {
                    reply = Some(Reply::Error(self.error(cause)));
                }
            }
        }
        reply
    }

    fn run(&mut self, task: impl Future<Output = TaskEnd> + Send + 'static) {
        self.sent_at = Instant::now();
        self.task = Some(Box::pin(task));
    }

    fn request(&self) -> Arc<LegRequest> {
        Arc::clone(self.request.as_ref().expect("the request is kept until the decode leg is sent"))
    }

    fn error(&mut self, cause: Cause) -> Error {
        let limits = self.worker.settings.limits;
        let limit_ms = |limit: Option<std::time::Duration>| limit.unwrap_or_default().as_millis();
        match cause {
            Cause::Failed(leg) => match self.brought.take() {
                Some(Brought::Error(error)) => error,
                _ => Error::LegBroken { leg, target: self.target(leg), how: Broken::Closed },
            },
            Cause::PrefillTimeout => Error::PrefillTimeout {
                target: self.prefill_target.clone(),
                limit_ms: limit_ms(limits.prefill),
            },
            Cause::RequestTimeout(leg) => Error::RequestTimeout { leg, limit_ms: limit_ms(limits.request) },
        }
    }

    fn target(&self, leg: Leg) -> String {
        match leg {
            Leg::Prefill => self.prefill_target.clone(),
            Leg::Decode => self.worker.settings.decoder.to_string(),
        }
    }
}
