//! One request under way: the handle that the client's answer holds. What is done with it: [`state`] (events and commands),
//! [`sends`], [`ends`], and [`causes`] of errors.
//!
//! The race guarded here: the client can leave at any await. Everything that must not be lost then (the core, a prefill
//! leg whose answer may be on its way, KV that is held) lives in [`Run`], and dropping an unfinished run hands it to the
//! background, where the same steps go on without anybody to answer.

mod causes;
mod ends;
mod sends;
mod state;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::response;
use kvferry_handoff::{Cause, Commands, Event, Handoff, Leg, Limits, Stage};
use kvferry_metrics::ReleaseReason;

use super::answer::WholeBody;
use super::chunked::Growing;
use super::held::Held;
use super::legs::LegRequest;
use crate::connector::{First, Observer, UsageEdit};
use crate::error::Error;
use crate::record::Record;
use crate::request::headers::unshared;
use crate::speculative::PrefilledBy;
use crate::upstream::Sent;
use crate::worker::Worker;
use state::State;

/// What the client gets.
pub(super) enum Reply {
    /// An error of ours.
    Error(Error),
    /// Prefill's first token, as an event. What decode brings is the next reply.
    Begun(Bytes),
    /// An engine's own error, as it is; with the outcome to log.
    Refused(Sent, &'static str),
    /// A complete answer.
    Whole(response::Parts, WholeBody),
    /// An answer that flows; what is held comes first.
    Stream(Sent, Held),
    /// An answer that is made chunk by chunk, of which the first is there.
    Grows(response::Parts, Box<Growing>),
    /// None: the engine that was asked first leaves the request to prefill.
    Declined,
}

/// A request under way.
pub(super) struct Run {
    /// `None` only when taken by `end` or by the destructor.
    state: Option<Box<State>>,
    /// What is measured; `None` only when taken by `end`.
    record: Option<Box<Record>>,
}

impl Run {
    /// Starts with the first attempt at a prefill. `request` has at least one target.
    pub(super) fn start(worker: Arc<Worker>, request: Arc<LegRequest>, record: Box<Record>) -> Self {
        let recovery = worker.settings.failover.recovery(request.targets.len(), worker.now());
        let (ledger, limits) = (worker.ledger.clone(), limits(&worker, &request));
        let (core, commands) = Handoff::start(ledger, limits, recovery, worker.now());
        if let Some(disaggregation) = request.disaggregation {
            record.metrics().disaggregated(disaggregation);
        }
        Self::begin(worker, request, None, record, core, commands)
    }

    /// Starts with the decode leg, and has no other. `first`: it only asks whether prefill is needed.
    pub(super) fn alone(
        worker: Arc<Worker>,
        request: Arc<LegRequest>,
        first: Option<First>,
        record: Box<Record>,
    ) -> Self {
        let (ledger, limits) = (worker.ledger.clone(), limits(&worker, &request));
        let (core, commands) = Handoff::alone(ledger, limits, worker.now());
        Self::begin(worker, request, first, record, core, commands)
    }

    fn begin(
        worker: Arc<Worker>,
        request: Arc<LegRequest>,
        first: Option<First>,
        mut record: Box<Record>,
        core: Handoff,
        commands: Commands,
    ) -> Self {
        let id = unshared(&request.asked.id);
        record.request_id(id.clone());
        let authorization = request.asked.headers.get(http::header::AUTHORIZATION).map(unshared);
        let mut state = Box::new(State::new(worker, request, first, core));
        (state.id, state.authorization) = (Some(id), authorization);
        let reply = state.follow(commands, Some(&mut record));
        debug_assert!(reply.is_none(), "nothing can be answered before anything happened");
        Self { state: Some(state), record: Some(record) }
    }

    /// Carries the request to the point where its client can be answered.
    pub(super) async fn reply(&mut self) -> Reply {
        let state = self.state.as_mut().expect("only a finished run has no state");
        loop {
            if let Some(reply) = state.step(self.record.as_deref_mut()).await {
                return reply;
            }
        }
    }

    /// What is measured.
    pub(super) fn record(&mut self) -> &mut Record {
        self.record.as_deref_mut().expect("the record goes only when the run ends")
    }

    /// Takes an event that the answer's body saw.
    pub(super) fn handle(&mut self, event: Event) -> Commands {
        let state = self.state.as_mut().expect("only a finished run has no state");
        if event == Event::DecodeFailed {
            state.release_reason = ReleaseReason::DecodeFailed;
        }
        let commands = state.core.handle(event, state.worker.now());
        if state.core.stage() == Stage::Streaming {
            // Nothing is left to release: what a release would need goes, since streams live long and are many.
            (state.attempt, state.id, state.authorization) = (None, None, None);
            state.request = None;
        }
        commands
    }

    /// The error for a decode leg that brought something else than the rest of an answer.
    pub(super) fn not_an_answer(&mut self) -> Error {
        self.error(Cause::Failed(Leg::Decode))
    }

    /// The error that tells a client of `cause`.
    pub(super) fn error(&mut self, cause: Cause) -> Error {
        self.state.as_mut().expect("only a finished run has no state").error(cause)
    }

    /// The decode engine has sent something.
    pub(super) fn decode_alive(&mut self) {
        if let Some(state) = &mut self.state {
            state.core.decode_alive(state.worker.now());
        }
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

    /// The prefill engine whose KV the answer is made from, if that is of interest to anybody.
    pub(super) fn prefilled_by(&self) -> Option<PrefilledBy> {
        let state = self.state.as_ref()?;
        let asked = state.prefilled && state.worker.settings.speculative.is_some();
        asked.then(|| PrefilledBy(Arc::clone(&state.target)))
    }

    /// Who wants to see the answer on its way.
    pub(super) fn observer(&mut self) -> Option<Box<dyn Observer>> {
        self.state.as_mut()?.observer.take()
    }

    /// What to put into the answer's usage.
    pub(super) fn usage_edit(&self) -> Option<UsageEdit> {
        let state = self.state.as_ref()?;
        let edit = UsageEdit::new(self.record.as_ref()?.api(), state.cached_tokens?)?;
        Some(if state.resumed { edit.resumed() } else { edit })
    }

    /// Hands out the record; what is left to do goes on in the background.
    pub(super) fn end(mut self) -> Box<Record> {
        self.leave();
        self.record.take().expect("a run ends once")
    }

    /// Nobody waits for an answer any more.
    fn leave(&mut self) {
        let Some(mut state) = self.state.take() else {
            return;
        };
        let now = state.worker.now();
        let commands = state.core.handle(Event::ClientLeft, now);
        drop(state.follow(commands, self.record.as_deref_mut()));
        state.finish_in_background();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The limits that are left for this stage of the request: what came before has taken its part of the time.
fn limits(worker: &Worker, request: &LegRequest) -> Arc<Limits> {
    let limits = &worker.settings.limits;
    match limits.request {
        None => Arc::clone(limits),
        Some(limit) => {
            let left = limit.saturating_sub(request.since.elapsed());
            Arc::new(Limits { request: Some(left), ..**limits })
        }
    }
}
