//! The decisions' way in and out: the end of a task becomes the core's event, and each of the core's commands is carried
//! out here. Nothing here decides.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use kvferry_contract::Endpoint;
use kvferry_handoff::{Command, Commands, Event, Handoff, Stage};
use kvferry_metrics::{Failover, Place, ReleaseReason, Retry};

use super::Reply;
use super::ends::Brought;
use crate::connector::{Attempt, First, Observer};
use crate::exchange::legs::{DecodeEnd, LegRequest};
use crate::exchange::tasks::{TaskEnd, Tasks};
use crate::record::Record;
use crate::worker::Worker;

/// What a request under way consists of.
pub(super) struct State {
    pub(super) worker: Arc<Worker>,
    pub(super) core: Handoff,
    pub(super) tasks: Tasks,
    /// Needed until the decode leg is sent for good.
    pub(super) request: Option<Arc<LegRequest>>,
    /// The decode leg only asks whether prefill is needed.
    pub(super) first: Option<First>,
    /// The present target, as an index into the request's.
    pub(super) candidate: usize,
    /// The attempt under way.
    pub(super) attempt: Option<Box<dyn Attempt>>,
    /// How many there were.
    pub(super) attempts: u32,
    /// The present target's prefill is what decode goes on from.
    pub(super) prefilled: bool,
    /// Why KV is given back, if it is.
    pub(super) release_reason: ReleaseReason,
    /// When the prefill leg was sent.
    pub(super) sent_at: Instant,
    /// The number to put into the answer's usage.
    pub(super) cached_tokens: Option<u64>,
    /// The answer goes on behind its first token, as a request of its own.
    pub(super) resumed: bool,
    /// Who wants to see the decode answer on its way.
    pub(super) observer: Option<Box<dyn Observer>>,
    /// How decode ended beside prefill, if that is believed only once prefill has answered.
    pub(super) doubted: Option<Event>,
    /// What the legs brought for the client. Boxed: both are empty while an answer flows.
    pub(super) from_prefill: Option<Box<Brought>>,
    pub(super) from_decode: Option<Box<Brought>>,
    /// For releases: which request it was, the right to talk to the engine, and where it is.
    pub(super) id: Option<HeaderValue>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) target: Arc<Endpoint>,
    pub(super) decoder: Arc<Endpoint>,
}

impl State {
    /// Nothing has happened yet. `target`: the prefill engine that is asked first.
    pub(super) fn new(
        worker: Arc<Worker>,
        request: Arc<LegRequest>,
        first: Option<First>,
        core: Handoff,
    ) -> Self {
        let target = Arc::clone(request.targets.first().unwrap_or(&request.rank.decoder));
        Self {
            core,
            tasks: Tasks::default(),
            candidate: 0,
            attempt: None,
            attempts: 0,
            prefilled: false,
            release_reason: ReleaseReason::ClientLeft,
            sent_at: Instant::now(),
            cached_tokens: None,
            resumed: false,
            observer: None,
            doubted: None,
            from_prefill: None,
            from_decode: None,
            id: None,
            authorization: None,
            target,
            decoder: Arc::clone(&request.rank.decoder),
            request: Some(request),
            first,
            worker,
        }
    }

    /// What is left goes on without a client.
    pub(super) fn finish_in_background(mut self: Box<Self>) {
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

    /// Waits for the next end, or time, and does what follows from it. Returns the answer once there is one.
    pub(super) async fn step(&mut self, mut record: Option<&mut Record>) -> Option<Reply> {
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

    /// Carries out `commands` and all that follows at once. Returns the answer, if one of them gives it.
    pub(super) fn follow(&mut self, commands: Commands, mut record: Option<&mut Record>) -> Option<Reply> {
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
        match command {
            Command::Prepare(target) => (self.prepare(target, record), None),
            Command::SendPrefill => {
                self.send_prefill(record);
                (None, None)
            }
            Command::AskLocal => (Some(self.ask_local()), None),
            Command::SendDecode(how) => match self.send_decode(how, record) {
                Some(event) => (Some(Event::AnswerBegun), Some(Reply::Begun(event))),
                None => (None, None),
            },
            Command::Release => (self.send_release(), None),
            Command::OrphanPrefill => {
                if let Some(record) = record {
                    record.prefill_cancelled();
                }
                self.orphan();
                (None, None)
            }
            Command::CancelRelease => {
                self.tasks.cancel_prefill();
                (None, None)
            }
            Command::CancelPrefill => {
                self.tasks.cancel_prefill();
                match record {
                    Some(record) => record.prefill_cancelled(),
                    // The grace after the client's end has passed, and the record went with the client.
                    None => self.worker.metrics.cancelled(kvferry_metrics::Leg::Prefill),
                }
                (None, None)
            }
            Command::CancelDecode => {
                self.tasks.cancel_decode();
                (self.from_decode, self.doubted) = (None, None);
                if let Some(record) = record {
                    record.decode_cancelled();
                }
                (None, None)
            }
            Command::AnswerPrefill => {
                (None, self.from_prefill.take().map(|brought| brought.reply("prefill_refused")))
            }
            Command::AnswerDecode => (None, self.answer_decode()),
            Command::AnswerError(cause) | Command::BreakAnswer(cause) => {
                (None, Some(Reply::Error(self.give_up(cause))))
            }
        }
    }

    fn ask_local(&mut self) -> Event {
        let granted = self.worker.settings.failover.grant_local(self.worker.now());
        let outcome = if granted { Failover::Local } else { Failover::OverBudget };
        self.worker.metrics.failed_over(outcome);
        if granted {
            self.worker.metrics.retried(Retry::Local);
        }
        Event::LocalGranted(granted)
    }

    fn answer_decode(&mut self) -> Option<Reply> {
        let reply = self.from_decode.take().map(|brought| brought.reply("decode_refused"));
        match &reply {
            Some(Reply::Refused(..)) => self.release_reason = ReleaseReason::DecodeFailed,
            Some(Reply::Whole(_, body)) => {
                if let Some(observer) = self.observer.take() {
                    observer.whole(body.data());
                }
                self.answered_whole();
            }
            _ => {}
        }
        reply
    }

    /// A whole answer is three events at once: begun, produced, ended.
    fn answered_whole(&mut self) {
        let now = self.worker.now();
        for event in [Event::DecodeProduced, Event::DecodeEnded] {
            let none = self.core.handle(event, now);
            debug_assert!(none == Commands::default(), "an answer that is complete needs nothing more");
        }
    }

    pub(super) fn request(&self) -> Arc<LegRequest> {
        Arc::clone(self.request.as_ref().expect("the request is kept until the decode leg is sent"))
    }

    pub(super) fn attempt(&self) -> &dyn Attempt {
        self.attempt.as_deref().expect("an attempt was prepared before its legs are sent or released")
    }
}
