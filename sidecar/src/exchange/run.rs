//! Carries out what the core commands, one event at a time.
//!
//! The race guarded here: the client can leave at any await. Everything that must not be lost then (the core, a prefill
//! leg whose answer may be on its way, KV that is held) lives in [`Run`], and dropping an unfinished run hands it to the
//! background, where the same steps go on without anybody to answer.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, response};
use kvferry_contract::Endpoint;
use kvferry_handoff::{Again, Cause, Command, Commands, Decode, Event, Handoff, Leg, Limits, Stage, Target};
use kvferry_metrics::{Direction, Failover, Place, ReleaseReason, Retry};

use super::answer::WholeBody;
use super::beside::decode_beside;
use super::chunked::{Growing, Start};
use super::held::Held;
use super::legs::{DecodeEnd, Engines, LegRequest, PrefillEnd, after_refusal, ask, decode, prefill, release};
use super::tasks::{TaskEnd, Tasks};
use super::{ahead, first};
use crate::connector::{Accepted, Attempt, First, Observer, Outgoing, UsageEdit};
use crate::error::{Broken, Error};
use crate::record::Record;
use crate::request::headers::unshared;
use crate::upstream::Sent;
use crate::worker::Worker;

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
    record: Option<Record>,
}

struct State {
    worker: Arc<Worker>,
    core: Handoff,
    tasks: Tasks,
    /// Needed until the decode leg is sent for good.
    request: Option<Arc<LegRequest>>,
    /// The decode leg only asks whether prefill is needed.
    first: Option<First>,
    /// The present target, as an index into the request's.
    candidate: usize,
    /// The attempt under way.
    attempt: Option<Box<dyn Attempt>>,
    /// How many there were.
    attempts: u32,
    /// Why KV is given back, if it is.
    release_reason: ReleaseReason,
    /// When the prefill leg was sent.
    sent_at: Instant,
    /// The number to put into the answer's usage.
    cached_tokens: Option<u64>,
    /// The answer goes on behind its first token, as a request of its own.
    resumed: bool,
    /// Who wants to see the decode answer on its way.
    observer: Option<Box<dyn Observer>>,
    /// How decode ended beside prefill, if that is believed only once prefill has answered.
    doubted: Option<Event>,
    /// What the legs brought for the client.
    from_prefill: Option<Brought>,
    from_decode: Option<Brought>,
    /// For releases: which request it was, the right to talk to the engine, and where it is.
    id: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
    target: Arc<Endpoint>,
    decoder: Arc<Endpoint>,
}

enum Brought {
    Sent(Sent),
    Held(Sent, Held),
    Grows(response::Parts, Box<Growing>),
    Whole(response::Parts, WholeBody),
    Error(Error),
}

impl Run {
    /// Starts with the first attempt at a prefill. `request` has at least one target.
    pub(super) fn start(worker: Arc<Worker>, request: Arc<LegRequest>, record: Record) -> Self {
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
        record: Record,
    ) -> Self {
        let (ledger, limits) = (worker.ledger.clone(), limits(&worker, &request));
        let (core, commands) = Handoff::alone(ledger, limits, worker.now());
        Self::begin(worker, request, first, record, core, commands)
    }

    fn begin(
        worker: Arc<Worker>,
        request: Arc<LegRequest>,
        first: Option<First>,
        mut record: Record,
        core: Handoff,
        commands: Commands,
    ) -> Self {
        let id = unshared(&request.asked.id);
        record.request_id(id.clone());
        let target = Arc::clone(request.targets.first().unwrap_or(&request.rank.decoder));
        let mut state = Box::new(State {
            core,
            tasks: Tasks::default(),
            candidate: 0,
            attempt: None,
            attempts: 0,
            release_reason: ReleaseReason::ClientLeft,
            sent_at: Instant::now(),
            cached_tokens: None,
            resumed: false,
            observer: None,
            doubted: None,
            from_prefill: None,
            from_decode: None,
            id: Some(id),
            authorization: request.asked.headers.get(http::header::AUTHORIZATION).map(unshared),
            target,
            decoder: Arc::clone(&request.rank.decoder),
            request: Some(request),
            first,
            worker,
        });
        let reply = state.follow(commands, Some(&mut record));
        debug_assert!(reply.is_none(), "nothing can be answered before anything happened");
        Self { state: Some(state), record: Some(record) }
    }

    /// Carries the request to the point where its client can be answered.
    pub(super) async fn reply(&mut self) -> Reply {
        let state = self.state.as_mut().expect("only a finished run has no state");
        loop {
            if let Some(reply) = state.step(self.record.as_mut()).await {
                return reply;
            }
        }
    }

    /// What is measured.
    pub(super) fn record(&mut self) -> &mut Record {
        self.record.as_mut().expect("the record goes only when the run ends")
    }

    /// Takes an event that the answer's body saw.
    pub(super) fn handle(&mut self, event: Event) -> Commands {
        let state = self.state.as_mut().expect("only a finished run has no state");
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
    pub(super) fn end(mut self) -> Record {
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
        drop(state.follow(commands, self.record.as_mut()));
        state.finish_in_background();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.leave();
    }
}

impl State {
    /// What is left goes on without a client.
    fn finish_in_background(mut self: Box<Self>) {
        if self.core.is_done() {
            return;
        }
        let worker = Arc::clone(&self.worker);
        let busy = worker.metrics.enter(Place::Release);
        worker.in_background(async move {
            while !self.core.is_done() {
                drop(self.step(None).await);
            }
            drop(busy);
        });
    }

    async fn step(&mut self, mut record: Option<&mut Record>) -> Option<Reply> {
        let wake = self.core.wake_at();
        let end = self.tasks.next(wake.map(|wake| self.worker.instant(wake))).await;
        let (event, now) = match end {
            Some(TaskEnd::Decode(DecodeEnd::Declined)) => return Some(Reply::Declined),
            Some(end) => (self.ended(end, record.as_deref_mut()), self.worker.now()),
            // A timer may fire a little early; the core must not be asked again and again for the same moment.
            None => (Event::Tick, self.worker.now().max(wake.unwrap_or_default())),
        };
        let releasing = self.core.stage() == Stage::Releasing;
        let commands = self.core.handle(event, now);
        if releasing && self.core.is_done() && event != Event::ReleaseEnded(true) {
            tracing::warn!(
                target = %self.target,
                request_id = self.id.as_ref().and_then(|id| id.to_str().ok()),
                "the decode engine did not take the release of KV; it stays held until the prefill engine's lease ends"
            );
        }
        let reply = self.follow(commands, record.as_deref_mut());
        if self.core.stage() == Stage::Decoding
            && let Some(event) = self.doubted.take()
        {
            let commands = self.core.handle(event, now);
            return reply.or(self.follow(commands, record));
        }
        reply
    }

    /// Whether a decode engine's error may come from what it was told beside prefill, and not from the request.
    fn doubts(&self, refusal: &Brought) -> bool {
        let failed = match refusal {
            Brought::Sent(sent) => sent.response.status().is_server_error(),
            Brought::Error(error) => matches!(error, Error::LegBroken { how: Broken::Told(_), .. }),
            _ => false,
        };
        let guessed = self.attempt.as_ref().is_some_and(|attempt| attempt.guesses());
        failed && guessed && self.core.stage() == Stage::Prefilling
    }

    /// Turns the end of a task into the core's event, and keeps what it brought.
    fn ended(&mut self, end: TaskEnd, record: Option<&mut Record>) -> Event {
        match end {
            TaskEnd::Asked(Ok(answer)) => self.begin(Some(&answer)),
            TaskEnd::Asked(Err(error)) => self.prefill_failed(error, Again::Elsewhere),
            TaskEnd::Prefill(end) => {
                let mut record = record;
                if let Some(record) = &mut record {
                    let how = match &end {
                        PrefillEnd::Answered(_) => Ok(200),
                        PrefillEnd::Refused(sent) => Ok(sent.response.status().as_u16()),
                        PrefillEnd::Failed(error, _) => Err(error.code()),
                    };
                    record.prefill_ended(how, self.sent_at.elapsed());
                }
                match end {
                    PrefillEnd::Answered(answer) => {
                        self.worker.settings.failover.answered(&self.target);
                        self.accept(&answer, record)
                    }
                    PrefillEnd::Refused(sent) => {
                        self.worker.settings.failover.answered(&self.target);
                        let again = after_refusal(sent.response.status());
                        self.worker.settings.connector.forget(&self.target);
                        self.from_prefill = Some(Brought::Sent(sent));
                        Event::PrefillRefused(again)
                    }
                    PrefillEnd::Failed(error, again) => self.prefill_failed(error, again),
                }
            }
            TaskEnd::Decode(end) => {
                let (brought, event) = match end {
                    DecodeEnd::Stream(sent) => (Brought::Sent(sent), Event::DecodeStarted),
                    DecodeEnd::Whole(head, body) => (Brought::Whole(head, body), Event::DecodeStarted),
                    DecodeEnd::Refused(sent) => (Brought::Sent(sent), Event::DecodeRefused),
                    DecodeEnd::Failed(error) => (Brought::Error(error), Event::DecodeFailed),
                    DecodeEnd::Held(sent, held) => (Brought::Held(sent, held), Event::DecodeStarted),
                    DecodeEnd::Resumed(sent) => {
                        self.resumed = true;
                        (Brought::Sent(sent), Event::DecodeStarted)
                    }
                    DecodeEnd::Grows(head, growing) => (Brought::Grows(head, growing), Event::DecodeStarted),
                    DecodeEnd::Declined => return Event::DecodeFailed,
                };
                if event != Event::DecodeStarted {
                    self.worker.settings.connector.forget(&self.target);
                }
                let doubted = event != Event::DecodeStarted && self.doubts(&brought);
                self.from_decode = Some(brought);
                if doubted {
                    self.doubted = Some(event);
                    return Event::Tick;
                }
                event
            }
            TaskEnd::Release(taken) => Event::ReleaseEnded(taken),
        }
    }

    /// What the connector makes of a successful prefill answer.
    fn accept(&mut self, answer: &bytes::Bytes, record: Option<&mut Record>) -> Event {
        let request = self.request();
        let attempt = self.attempt.as_mut().expect("a prefill leg belongs to an attempt");
        self.worker.metrics.bytes(Direction::FromPrefill, answer.len() as u64);
        if let Some(detail) = attempt.told_error(answer) {
            let error = Error::PrefillTold { target: self.target.to_string(), detail };
            return self.prefill_failed(error, Again::Elsewhere);
        }
        let accepted = attempt.accept(&request.asked, answer);
        if let (Ok(_), Some(unusable)) = (&accepted, attempt.unusable()) {
            let error = Error::PrefillUnknown { target: self.target.to_string(), detail: unusable.0 };
            return self.prefill_failed(error, Again::Elsewhere);
        }
        match accepted {
            Ok(Accepted { kv, cached_tokens, anew }) => {
                if self.candidate > 0 {
                    self.worker.metrics.failed_over(Failover::Other);
                }
                if let Some(record) = record {
                    record.prefill_accepted();
                    record.cached_tokens = cached_tokens.or(record.cached_tokens);
                }
                if let Some(cached_tokens) = cached_tokens {
                    self.cached_tokens = Some(cached_tokens);
                    if !kv {
                        tracing::warn!(
                            target = %self.target,
                            "warning: missing 'kv_transfer_params' field in prefiller response"
                        );
                    }
                }
                Event::PrefillAccepted { kv, anew }
            }
            Err(malformed) => {
                let target = self.target.to_string();
                let error = Error::PrefillNotJson { target, detail: malformed.to_string() };
                self.prefill_failed(error, Again::Elsewhere)
            }
        }
    }

    fn prefill_failed(&mut self, error: Error, again: Again) -> Event {
        self.worker.settings.connector.forget(&self.target);
        if error.is_unreachable() {
            self.worker.settings.failover.unreachable(&self.target, self.worker.now());
        }
        self.from_prefill = Some(Brought::Error(error));
        Event::PrefillFailed(again)
    }

    /// Begins an attempt at the present target. `answer`: to the connector's question.
    fn begin(&mut self, answer: Option<&bytes::Bytes>) -> Event {
        let request = self.request();
        match self.worker.settings.connector.begin(&request.asked, &self.target, answer) {
            Ok(attempt) => {
                let (overlap, named) = (attempt.overlaps(), attempt.named());
                self.attempt = Some(attempt);
                Event::Prepared { overlap, named }
            }
            Err(unusable) => {
                let target = self.target.to_string();
                let error = Error::PrefillUnknown { target, detail: unusable.0 };
                self.prefill_failed(error, Again::Elsewhere)
            }
        }
    }

    fn follow(&mut self, commands: Commands, mut record: Option<&mut Record>) -> Option<Reply> {
        let mut reply = None;
        for command in commands {
            let (event, this) = self.carry_out(command, record.as_deref_mut());
            reply = reply.or(this);
            if let Some(event) = event {
                let now = self.worker.now();
                let commands = self.core.handle(event, now);
                let later = self.follow(commands, record.as_deref_mut());
                reply = reply.or(later);
            }
        }
        reply
    }

    /// Does one thing. Returns the event that follows at once, and the answer, if there are such.
    fn carry_out(&mut self, command: Command, record: Option<&mut Record>) -> (Option<Event>, Option<Reply>) {
        let mut reply = None;
        match command {
            Command::Prepare(target) => return (self.prepare(target, record), None),
            Command::SendPrefill => {
                let request = self.request();
                let mut leg = self.attempt().prefill(&request.asked);
                if let Some(record) = record {
                    let mut headers = HeaderMap::new();
                    record.prefill_sent(&self.target, &mut headers, leg.body.len());
                    leg.add(headers);
                }
                let (upstream, target) = (self.worker.legs.prefill.clone(), Arc::clone(&self.target));
                self.sent_at = Instant::now();
                self.tasks.run_prefill(async move {
                    TaskEnd::Prefill(prefill(upstream, request, target, leg).await)
                });
            }
            Command::OrphanPrefill => {
                if let Some(record) = record {
                    record.prefill_cancelled();
                }
                self.orphan();
            }
            Command::AskLocal => {
                let granted = self.worker.settings.failover.grant_local(self.worker.now());
                let outcome = if granted { Failover::Local } else { Failover::OverBudget };
                self.worker.metrics.failed_over(outcome);
                if granted {
                    self.worker.metrics.retried(Retry::Local);
                }
                return (Some(Event::LocalGranted(granted)), None);
            }
            Command::SendDecode(how) => {
                let first = self.send_decode(how, record);
                if let Some(event) = first {
                    return (Some(Event::AnswerBegun), Some(Reply::Begun(event)));
                }
            }
            Command::Release => {
                let request = self.attempt().release();
                let Some(request) = request else { return (Some(Event::ReleaseEnded(false)), None) };
                self.worker.metrics.released(self.release_reason);
                let (id, authorization) = (self.id.clone(), self.authorization.clone());
                let engines =
                    Engines { prefill: Arc::clone(&self.target), decode: Arc::clone(&self.decoder) };
                let legs = self.worker.legs.clone();
                self.tasks.run_prefill(async move {
                    TaskEnd::Release(release(legs, engines, request, id, authorization).await)
                });
            }
            Command::CancelRelease => self.tasks.cancel_prefill(),
            Command::CancelPrefill => {
                self.tasks.cancel_prefill();
                match record {
                    Some(record) => record.prefill_cancelled(),
                    // The grace after the client's end has passed, and the record went with the client.
                    None => self.worker.metrics.cancelled(kvferry_metrics::Leg::Prefill),
                }
            }
            Command::CancelDecode => {
                self.tasks.cancel_decode();
                (self.from_decode, self.doubted) = (None, None);
                if let Some(record) = record {
                    record.decode_cancelled();
                }
            }
            Command::AnswerPrefill => {
                reply = self.from_prefill.take().map(|brought| brought.reply("prefill_refused"));
            }
            Command::AnswerDecode => {
                reply = self.from_decode.take().map(|brought| brought.reply("decode_refused"));
                if let Some(Reply::Refused(..)) = reply {
                    self.release_reason = ReleaseReason::DecodeFailed;
                }
                if let Some(Reply::Whole(_, body)) = &reply {
                    if let Some(mut observer) = self.observer.take() {
                        observer.data(body.data());
                        observer.end();
                    }
                    self.answered_whole();
                }
            }
            Command::AnswerError(cause) | Command::BreakAnswer(cause) => {
                if cause == Cause::Exhausted && !self.worker.settings.failover.ends_locally() {
                    self.worker.metrics.failed_over(Failover::Failed);
                }
                self.release_reason = match cause {
                    Cause::Failed(_) | Cause::Exhausted => ReleaseReason::DecodeFailed,
                    Cause::PrefillTimeout | Cause::RequestTimeout(_) | Cause::DecodeStalled => {
                        ReleaseReason::Deadline
                    }
                };
                reply = Some(Reply::Error(self.error(cause)));
            }
        }
        (None, reply)
    }

    /// A whole answer is three events at once: begun, produced, ended.
    fn answered_whole(&mut self) {
        let now = self.worker.now();
        for event in [Event::DecodeProduced, Event::DecodeEnded] {
            let none = self.core.handle(event, now);
            debug_assert!(none == Commands::default(), "an answer that is complete needs nothing more");
        }
    }

    /// Makes an attempt ready. `None`: its question has to be answered first.
    fn prepare(&mut self, target: Target, record: Option<&mut Record>) -> Option<Event> {
        if target == Target::Next {
            self.candidate += 1;
            let next = self.request().targets.get(self.candidate).cloned();
            self.target = next.expect("the core goes to no more candidates than there are");
        }
        if let Some(record) = record {
            if self.attempts > 0 {
                record.metrics().retried(if target == Target::Next { Retry::Other } else { Retry::Same });
            }
            record.goes_to(&self.target);
        }
        self.attempts += 1;
        self.tasks.cancel_prefill();
        match self.worker.settings.connector.question(&self.target) {
            None => Some(self.begin(None)),
            Some(question) => {
                let upstream = self.worker.legs.bootstrap.clone();
                self.tasks.run_prefill(async move { TaskEnd::Asked(ask(upstream, question).await) });
                None
            }
        }
    }

    /// Returns the event with which the client's answer begins at once, if it does.
    fn send_decode(&mut self, how: Decode, record: Option<&mut Record>) -> Option<Bytes> {
        let request = self.request();
        let asked = &request.asked;
        let mut leg: Outgoing = match how {
            Decode::AfterPrefill => self.attempt().decode(asked),
            Decode::BesidePrefill => self
                .attempt()
                .beside(asked)
                .expect("an attempt that overlaps has a leg to send beside prefill"),
            Decode::Alone => {
                self.cached_tokens = None;
                let alone = self.worker.settings.connector.alone(asked);
                alone.unwrap_or_else(|| asked.intake.body.clone().into())
            }
        };
        if how != Decode::Alone {
            self.observer = self.attempt().observer(asked);
        }
        let usage = self.cached_tokens.and_then(|cached| UsageEdit::new(asked.api, cached));
        // Without a client there is nobody to send it to.
        let ahead = how == Decode::AfterPrefill && record.is_some() && !request.encoded;
        let first_token = ahead.then(|| self.attempt().first_token()).flatten();
        if let Some(record) = record {
            let mut headers = HeaderMap::new();
            record.decode_sent(&self.decoder, &mut headers);
            leg.add(headers);
        }
        let upstream = self.worker.legs.decode.clone();
        if how != Decode::BesidePrefill {
            // The leg holds the last reference: the body goes as soon as it is sent and answered.
            self.request = None;
        }
        if let Some(first) = self.first.take() {
            let attempt = first::attempt(upstream, request, leg, first);
            self.tasks.run_decode(async move { TaskEnd::Decode(attempt.await) });
            return None;
        }
        if let Some(first) = first_token {
            let event = first.event();
            let leg = ahead::decode(upstream, request, leg, first);
            self.tasks.run_decode(async move { TaskEnd::Decode(leg.await) });
            return Some(event);
        }
        // Beside prefill all is set up for one leg, and embeddings are there for one.
        let whole = how == Decode::BesidePrefill || request.encoded;
        let chunk = self.worker.settings.decode_chunk.filter(|_| !whole);
        let start = Start::of(request.asked.api, leg, chunk);
        self.tasks.run_decode(async move {
            TaskEnd::Decode(match start {
                Ok(start) => start.send(upstream, request, usage).await,
                Err(leg) if how == Decode::BesidePrefill => {
                    decode_beside(upstream, request, leg, usage).await
                }
                Err(leg) => decode(upstream, request, leg, usage).await,
            })
        });
        None
    }

    /// Hands what is left of the present attempt to a core of its own.
    fn orphan(&mut self) {
        let named = self.attempt.as_ref().is_some_and(|attempt| attempt.named());
        let (ledger, limits) = (self.worker.ledger.clone(), Arc::clone(&self.worker.settings.limits));
        let runs = self.tasks.prefill_runs();
        let (core, commands) = Handoff::orphan(ledger, limits, runs, named, self.worker.now());
        let mut orphan = Box::new(State {
            worker: Arc::clone(&self.worker),
            core,
            tasks: self.tasks.take_prefill(),
            request: self.request.clone(),
            first: None,
            candidate: self.candidate,
            attempt: self.attempt.take(),
            attempts: self.attempts,
            release_reason: ReleaseReason::Superseded,
            sent_at: self.sent_at,
            cached_tokens: None,
            resumed: false,
            observer: None,
            doubted: None,
            from_prefill: None,
            from_decode: None,
            id: self.id.clone(),
            authorization: self.authorization.clone(),
            target: Arc::clone(&self.target),
            decoder: Arc::clone(&self.decoder),
        });
        drop(orphan.follow(commands, None));
        orphan.finish_in_background();
    }

    fn request(&self) -> Arc<LegRequest> {
        Arc::clone(self.request.as_ref().expect("the request is kept until the decode leg is sent"))
    }

    fn attempt(&self) -> &dyn Attempt {
        self.attempt.as_deref().expect("an attempt was prepared before its legs are sent or released")
    }

    fn error(&mut self, cause: Cause) -> Error {
        let limits = &self.worker.settings.limits;
        let limit_ms = |limit: Option<std::time::Duration>| limit.unwrap_or_default().as_millis();
        match cause {
            Cause::Failed(leg) => {
                let (brought, target) = match leg {
                    Leg::Prefill => (self.from_prefill.take(), &self.target),
                    Leg::Decode => (self.from_decode.take(), &self.decoder),
                };
                match brought {
                    Some(Brought::Error(error)) => error,
                    _ => Error::LegBroken { leg, target: target.to_string(), how: Broken::Closed },
                }
            }
            Cause::PrefillTimeout => {
                let known_as = self.worker.settings.connector.known_timeout();
                let limit_ms = limit_ms(limits.prefill);
                Error::PrefillTimeout { target: self.target.to_string(), limit_ms, known_as }
            }
            Cause::RequestTimeout(leg) => Error::RequestTimeout { leg, limit_ms: limit_ms(limits.request) },
            Cause::DecodeStalled => Error::DecodeStalled { limit_ms: limit_ms(limits.decode_stall) },
            Cause::Exhausted => Error::PrefillExhausted {
                last: match self.from_prefill.take() {
                    Some(Brought::Error(error)) => error.to_string(),
                    Some(Brought::Sent(sent)) => {
                        format!("prefill engine {} answered {}", self.target, sent.response.status())
                    }
                    _ => format!("prefill engine {} did not answer in time", self.target),
                },
            },
        }
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

impl Brought {
    /// `refused`: the outcome if it is an engine's own error.
    fn reply(self, refused: &'static str) -> Reply {
        match self {
            Self::Sent(sent) if sent.response.status().is_success() => Reply::Stream(sent, Held::default()),
            Self::Held(sent, held) => Reply::Stream(sent, held),
            Self::Grows(head, growing) => Reply::Grows(head, growing),
            Self::Sent(sent) => Reply::Refused(sent, refused),
            Self::Whole(head, body) => Reply::Whole(head, body),
            Self::Error(error) => Reply::Error(error),
        }
    }
}
