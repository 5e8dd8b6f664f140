//! The state machine of one disaggregated request.
//!
//! What it guards:
//! - the client gets exactly one answer, or leaves;
//! - a leg that dies, and a deadline that passes, take everything else down;
//! - decode that runs beside prefill answers nobody before prefill is accepted;
//! - KV that was handed out is consumed, or released by a bounded number of attempts, and only then given up.
//!
//! The race that matters most: KV counts as consumed only when the decode engine has *produced* something. Its
//! response head proves nothing (engines send it before they have looked at the KV), so whatever ends the decode leg
//! before the first data is followed by a release. Releasing twice is harmless; not releasing strands GPU memory.
//!
//! And one more: when the client leaves, prefill's answer may already be on its way, with KV that only that answer
//! names. So a prefill leg that nobody waits for is given a moment ([`Limits::prefill_grace`]) before it is dropped.

use std::sync::Arc;

use crate::event::{Again, Cause, Command, Commands, Decode, Event, Leg, Target};
use crate::ledger::{Held, Ledger};
use crate::limits::{Limits, Recovery};
use crate::time::Time;

/// Where a request is, for logs, metrics and debugging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The prefill leg runs, or is about to. Decode may run beside it.
    Prefilling,
    /// The decode leg runs and may not have read the KV yet.
    Decoding,
    /// The answer flows, and no KV is held for it.
    Streaming,
    /// The client is served or gone; the prefill leg may still bring KV.
    Withdrawing,
    /// The client is served or gone; KV is being given back.
    Releasing,
    /// Over.
    Done,
}

/// What decode does while prefill runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// It was not sent.
    Nothing,
    /// It was sent.
    Running,
    /// Its answer has begun, and is held.
    Started,
}

#[derive(Debug)]
enum State {
    /// What the attempt needs is being asked for.
    Preparing {
        until: Option<Time>,
    },
    Prefilling {
        until: Option<Time>,
        beside: Beside,
        named: bool,
    },
    /// Between two attempts.
    Pausing {
        until: Time,
    },
    /// Between [`Command::AskLocal`] and its answer.
    Asking,
    Withdrawing {
        until: Time,
        named: bool,
    },
    Decoding {
        kv: Option<Held>,
        answering: bool,
        /// When the engine last gave a sign of life.
        alive: Time,
    },
    Streaming {
        alive: Time,
    },
    /// `wake`: when the running attempt ends at the latest, or else when to begin the next.
    Releasing {
        kv: Held,
        attempts_left: u8,
        running: bool,
        wake: Time,
    },
    Done,
}

/// One request. See the module's text.
#[derive(Debug)]
pub struct Handoff {
    ledger: Ledger,
    limits: Arc<Limits>,
    recovery: Recovery,
    /// Left at the present engine.
    same_left: u32,
    others_left: usize,
    /// When both legs must be over.
    deadline: Option<Time>,
    state: State,
}

impl Handoff {
    /// A request that starts `now`. Follow the returned commands.
    pub fn start(ledger: Ledger, limits: Arc<Limits>, recovery: Recovery, now: Time) -> (Self, Commands) {
        let mut handoff = Self {
            ledger,
            deadline: limits.request.map(|limit| now + limit),
            limits,
            recovery,
            same_left: recovery.same,
            others_left: recovery.others,
            state: State::Done,
        };
        let commands = handoff.prepare(Target::Same, now);
        (handoff, commands)
    }

    /// A request that only decodes, from `now` on: no prefill precedes it, so no KV is ever held for it.
    pub fn alone(ledger: Ledger, limits: Arc<Limits>, now: Time) -> (Self, Commands) {
        let handoff = Self {
            ledger,
            deadline: limits.request.map(|limit| now + limit),
            limits,
            recovery: Recovery::default(),
            same_left: 0,
            others_left: 0,
            state: State::Decoding { kv: None, answering: false, alive: now },
        };
        (handoff, Command::SendDecode(Decode::Alone).into())
    }

    /// What is left of an attempt that another one replaces: a prefill leg that still `runs` and may bring KV, or KV
    /// that was `named` and may be held though no answer came. It only cleans up.
    pub fn orphan(
        ledger: Ledger,
        limits: Arc<Limits>,
        runs: bool,
        named: bool,
        now: Time,
    ) -> (Self, Commands) {
        let mut handoff = Self {
            ledger,
            limits,
            recovery: Recovery::default(),
            same_left: 0,
            others_left: 0,
            deadline: None,
            state: State::Done,
        };
        let commands = if runs { handoff.withdraw(named, now) } else { handoff.release_named(named, now) };
        (handoff, commands)
    }

    /// Takes an event and says what to do. Events that the state has no use for change nothing: an answer that crossed
    /// its cancellation is no error. KV that arrives that way is released.
    pub fn handle(&mut self, event: Event, now: Time) -> Commands {
        match std::mem::replace(&mut self.state, State::Done) {
            state @ (State::Preparing { .. }
            | State::Prefilling { .. }
            | State::Pausing { .. }
            | State::Asking) => self.before_decode(state, event, now),
            state @ (State::Decoding { .. } | State::Streaming { .. }) => self.in_decode(state, event, now),
            state @ (State::Withdrawing { .. } | State::Releasing { .. } | State::Done) => {
                self.afterwards(state, event, now)
            }
        }
    }

    /// The decode engine sent something, whatever it was.
    pub fn decode_alive(&mut self, now: Time) {
        if let State::Decoding { alive, .. } | State::Streaming { alive } = &mut self.state {
            *alive = now;
        }
    }

    /// When to come back with [`Event::Tick`] if nothing else happens before.
    pub fn wake_at(&self) -> Option<Time> {
        match &self.state {
            State::Preparing { until } | State::Prefilling { until, .. } => earlier(*until, self.deadline),
            State::Pausing { until } => earlier(Some(*until), self.deadline),
            State::Decoding { alive, .. } | State::Streaming { alive } => {
                earlier(self.limits.decode_stall.map(|limit| *alive + limit), self.deadline)
            }
            State::Withdrawing { until: wake, .. } | State::Releasing { wake, .. } => Some(*wake),
            State::Asking | State::Done => None,
        }
    }

    /// Where the request is.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Preparing { .. } | State::Prefilling { .. } | State::Pausing { .. } | State::Asking => {
                Stage::Prefilling
            }
            State::Withdrawing { .. } => Stage::Withdrawing,
            State::Decoding { .. } => Stage::Decoding,
            State::Streaming { .. } => Stage::Streaming,
            State::Releasing { .. } => Stage::Releasing,
            State::Done => Stage::Done,
        }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Prefill has not been accepted yet.
    fn before_decode(&mut self, state: State, event: Event, now: Time) -> Commands {
        match (state, event) {
            (State::Preparing { .. }, Event::Prepared { overlap, named }) => {
                let beside = if overlap { Beside::Running } else { Beside::Nothing };
                let until = self.limits.prefill.map(|limit| now + limit);
                self.state = State::Prefilling { until, beside, named };
                Commands::from(Command::SendPrefill)
                    .and_if(overlap, Command::SendDecode(Decode::BesidePrefill))
            }
            (State::Preparing { .. }, Event::PrefillFailed(again)) => {
                self.recover(again, Command::AnswerError(Cause::Failed(Leg::Prefill)), now)
            }
            // Nothing was sent yet that could hold KV.
            (State::Preparing { .. } | State::Pausing { .. } | State::Asking, Event::ClientLeft) => {
                Commands::default()
            }
            (State::Preparing { until }, Event::Tick) => match self.late(until, now) {
                Some(cause @ Cause::PrefillTimeout) => {
                    self.recover(Again::Elsewhere, Command::AnswerError(cause), now)
                }
                Some(cause) => Command::AnswerError(cause).into(),
                None => self.stay(State::Preparing { until }),
            },

            (State::Prefilling { beside, .. }, Event::PrefillAccepted { kv, anew }) => {
                self.prefilled(beside, kv, anew, now)
            }
            (State::Prefilling { beside, named, .. }, Event::PrefillRefused(again)) => {
                let commands = self.recover(again, Command::AnswerPrefill, now);
                // A request that is wrong was refused on both sides; any other may wait for KV that will not come.
                let waits = named && beside != Beside::Nothing && again != Again::Never;
                let commands = self.leave_attempt(false, waits, commands, now);
                cancel_decode(beside, commands)
            }
            (State::Prefilling { beside, named, .. }, Event::PrefillFailed(again)) => {
                let commands = self.recover(again, Command::AnswerError(Cause::Failed(Leg::Prefill)), now);
                let commands = self.leave_attempt(false, named, commands, now);
                cancel_decode(beside, commands)
            }
            (State::Prefilling { until, beside: Beside::Running, named }, Event::DecodeStarted) => {
                self.stay(State::Prefilling { until, beside: Beside::Started, named })
            }
            (State::Prefilling { beside, named, .. }, Event::DecodeRefused) if beside != Beside::Nothing => {
                self.withdraw_then(named, Command::AnswerDecode, now)
            }
            (State::Prefilling { beside, named, .. }, Event::DecodeFailed | Event::DecodeEnded)
                if beside != Beside::Nothing =>
            {
                self.withdraw_then(named, Command::AnswerError(Cause::Failed(Leg::Decode)), now)
            }
            (State::Prefilling { beside, named, .. }, Event::ClientLeft) => {
                let commands = self.withdraw(named, now);
                cancel_decode(beside, commands)
            }
            (State::Prefilling { until, beside, named }, Event::Tick) => match self.late(until, now) {
                Some(Cause::PrefillTimeout) => {
                    let error = Command::AnswerError(Cause::PrefillTimeout);
                    let commands = self.recover(Again::Elsewhere, error, now);
                    let commands = self.leave_attempt(true, named, commands, now);
                    cancel_decode(beside, commands)
                }
                Some(cause) => {
                    let commands = self.withdraw_then(named, Command::AnswerError(cause), now);
                    cancel_decode(beside, commands)
                }
                None => self.stay(State::Prefilling { until, beside, named }),
            },

            (State::Pausing { .. }, Event::Tick) if self.is_late(now) => {
                Command::AnswerError(Cause::RequestTimeout(Leg::Prefill)).into()
            }
            (State::Pausing { until }, Event::Tick) if now >= until => self.prepare(Target::Same, now),

            (State::Asking, Event::LocalGranted(true)) => {
                self.state = State::Decoding { kv: None, answering: false, alive: now };
                Command::SendDecode(Decode::Alone).into()
            }
            (State::Asking, Event::LocalGranted(false)) => Command::AnswerError(Cause::Exhausted).into(),

            (state, _) => self.stay(state),
        }
    }

    /// Everything depends on the decode leg.
    fn in_decode(&mut self, state: State, event: Event, now: Time) -> Commands {
        match (state, event) {
            (State::Decoding { kv, alive, .. }, Event::AnswerBegun) => {
                self.stay(State::Decoding { kv, answering: true, alive })
            }
            (State::Decoding { kv, .. }, Event::DecodeStarted) => {
                self.state = State::Decoding { kv, answering: true, alive: now };
                Command::AnswerDecode.into()
            }
            (State::Decoding { kv, .. }, Event::DecodeProduced) => {
                kv.into_iter().for_each(Held::consumed);
                self.stay(State::Streaming { alive: now })
            }
            // Complete without anything produced: an error told inside the stream, or nothing at all.
            (State::Decoding { kv, answering: true, .. }, Event::DecodeEnded) => {
                self.release_after(kv, now, Commands::default())
            }
            // A client that has the beginning of an answer cannot be told of another status any more.
            (State::Decoding { kv, answering: false, .. }, Event::DecodeRefused) => {
                self.release_after(kv, now, Command::AnswerDecode.into())
            }
            (State::Decoding { kv, answering: true, .. }, Event::DecodeRefused) => {
                self.release_after(kv, now, Command::BreakAnswer(Cause::Failed(Leg::Decode)).into())
            }
            (State::Decoding { kv, answering, .. }, Event::DecodeFailed | Event::DecodeEnded) => {
                self.release_after(kv, now, end_answer(answering, Cause::Failed(Leg::Decode)).into())
            }
            (State::Decoding { kv, .. }, Event::ClientLeft) => {
                self.release_after(kv, now, Command::CancelDecode.into())
            }
            (State::Decoding { kv, answering, alive }, Event::Tick) => match self.decode_late(alive, now) {
                Some(cause) => {
                    let commands = Commands::from(Command::CancelDecode).and(end_answer(answering, cause));
                    self.release_after(kv, now, commands)
                }
                None => self.stay(State::Decoding { kv, answering, alive }),
            },

            (State::Streaming { .. }, Event::DecodeEnded) => Commands::default(),
            (State::Streaming { .. }, Event::DecodeFailed) => {
                Command::BreakAnswer(Cause::Failed(Leg::Decode)).into()
            }
            (State::Streaming { .. }, Event::ClientLeft) => Command::CancelDecode.into(),
            (State::Streaming { alive }, Event::Tick) => match self.decode_late(alive, now) {
                Some(cause) => Commands::from(Command::CancelDecode).and(Command::BreakAnswer(cause)),
                None => self.stay(State::Streaming { alive }),
            },

            (state, _) => self.stay(state),
        }
    }

    /// The client is served or gone; what is left is cleaned up.
    fn afterwards(&mut self, state: State, event: Event, now: Time) -> Commands {
        match (state, event) {
            (State::Withdrawing { .. } | State::Done, Event::PrefillAccepted { kv: true, .. }) => {
                self.state = self.releasing(now);
                Commands::default()
            }
            (State::Withdrawing { until, named }, Event::Tick) if now >= until => {
                self.release_named(named, now + self.limits.release_grace);
                Command::CancelPrefill.into()
            }
            (State::Withdrawing { named, .. }, Event::PrefillFailed(_)) => self.release_named(named, now),
            (
                State::Withdrawing { .. },
                Event::PrefillAccepted { kv: false, .. } | Event::PrefillRefused(_),
            ) => Commands::default(),
            (State::Releasing { kv, running: true, .. }, Event::ReleaseEnded(true)) => {
                kv.released();
                Commands::default()
            }
            (State::Releasing { kv, attempts_left, running: true, .. }, Event::ReleaseEnded(false)) => {
                self.retry_release(kv, attempts_left, now);
                Commands::default()
            }
            (State::Releasing { kv, attempts_left, running, wake }, Event::Tick) if now >= wake => {
                if running {
                    self.retry_release(kv, attempts_left, now);
                    Command::CancelRelease.into()
                } else {
                    let wake = now + self.limits.release_attempt;
                    self.state = State::Releasing { kv, attempts_left, running: true, wake };
                    Command::Release.into()
                }
            }

            (state, _) => self.stay(state),
        }
    }

    fn stay(&mut self, state: State) -> Commands {
        self.state = state;
        Commands::default()
    }

    fn prepare(&mut self, target: Target, now: Time) -> Commands {
        self.state = State::Preparing { until: self.limits.prefill.map(|limit| now + limit) };
        Command::Prepare(target).into()
    }

    /// Prefill has done its part.
    fn prefilled(&mut self, beside: Beside, kv: bool, anew: bool, now: Time) -> Commands {
        let kv = kv.then(|| self.ledger.hold());
        let started = beside == Beside::Started && !anew;
        self.state = State::Decoding { kv, answering: started, alive: now };
        match beside {
            Beside::Nothing => Command::SendDecode(Decode::AfterPrefill).into(),
            Beside::Running | Beside::Started if anew => {
                Commands::from(Command::CancelDecode).and(Command::SendDecode(Decode::AfterPrefill))
            }
            Beside::Running => Commands::default(),
            Beside::Started => Command::AnswerDecode.into(),
        }
    }

    /// What to do about a failed prefill; `end` if nothing else is left.
    fn recover(&mut self, again: Again, end: Command, now: Time) -> Commands {
        if again == Again::Never || self.is_late(now) {
            return end.into();
        }
        // An engine that is away may be so for minutes, and a pause would buy nothing that another does not give at once.
        let waits = again == Again::Here || again == Again::Anywhere && self.others_left == 0;
        if waits && self.same_left > 0 {
            self.same_left -= 1;
            return self.stay(State::Pausing { until: now + self.recovery.pause });
        }
        if self.others_left > 0 {
            self.others_left -= 1;
            self.same_left = self.recovery.same;
            return self.prepare(Target::Next, now);
        }
        if self.recovery.local {
            self.state = State::Asking;
            return Command::AskLocal.into();
        }
        if self.recovery.leaves_the_engine() {
            Command::AnswerError(Cause::Exhausted).into()
        } else {
            end.into()
        }
    }

    /// The attempt is over for its client, but something of it may be left: a leg that `runs`, or KV that was `named`.
    /// `commands`: how the request goes on, or ends.
    fn leave_attempt(&mut self, runs: bool, named: bool, commands: Commands, now: Time) -> Commands {
        if !runs && !named {
            return commands;
        }
        if self.is_done() {
            let end = if runs { self.withdraw(named, now) } else { self.release_named(named, now) };
            return join(end, commands);
        }
        join(Command::OrphanPrefill.into(), commands)
    }

    /// Nobody waits for prefill any more.
    fn withdraw(&mut self, named: bool, now: Time) -> Commands {
        if self.limits.prefill_grace.is_zero() {
            self.release_named(named, now + self.limits.release_grace);
            return Command::CancelPrefill.into();
        }
        self.stay(State::Withdrawing { until: now + self.limits.prefill_grace, named })
    }

    fn withdraw_then(&mut self, named: bool, answer: Command, now: Time) -> Commands {
        self.withdraw(named, now).and(answer)
    }

    /// Prefill's answer will not come, but its KV has a name.
    fn release_named(&mut self, named: bool, first_attempt: Time) -> Commands {
        self.state = if named { self.releasing(first_attempt) } else { State::Done };
        Commands::default()
    }

    /// The decode leg is over or being cancelled; `commands` end the client's side. KV still held goes back.
    fn release_after(&mut self, kv: Option<Held>, now: Time, commands: Commands) -> Commands {
        if let Some(kv) = kv {
            self.state = self.releasing_held(kv, now + self.limits.release_grace);
        }
        commands
    }

    fn releasing(&self, first_attempt: Time) -> State {
        self.releasing_held(self.ledger.hold(), first_attempt)
    }

    fn releasing_held(&self, kv: Held, first_attempt: Time) -> State {
        State::Releasing {
            kv,
            attempts_left: self.limits.release_attempts.get(),
            running: false,
            wake: first_attempt,
        }
    }

    fn retry_release(&mut self, kv: Held, attempts_left: u8, now: Time) {
        match attempts_left.saturating_sub(1) {
            0 => kv.expired(),
            attempts_left => {
                let wake = now + self.limits.release_pause;
                self.state = State::Releasing { kv, attempts_left, running: false, wake };
            }
        }
    }

    fn is_late(&self, now: Time) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Which limit of the prefill phase has passed.
    fn late(&self, until: Option<Time>, now: Time) -> Option<Cause> {
        if self.is_late(now) {
            Some(Cause::RequestTimeout(Leg::Prefill))
        } else {
            until.is_some_and(|until| now >= until).then_some(Cause::PrefillTimeout)
        }
    }

    /// Which limit of the decode phase has passed.
    fn decode_late(&self, alive: Time, now: Time) -> Option<Cause> {
        if self.is_late(now) {
            return Some(Cause::RequestTimeout(Leg::Decode));
        }
        let stalled = self.limits.decode_stall.is_some_and(|limit| now >= alive + limit);
        stalled.then_some(Cause::DecodeStalled)
    }
}

fn end_answer(answering: bool, cause: Cause) -> Command {
    if answering { Command::BreakAnswer(cause) } else { Command::AnswerError(cause) }
}

fn cancel_decode(beside: Beside, commands: Commands) -> Commands {
    if beside == Beside::Nothing { commands } else { join(Command::CancelDecode.into(), commands) }
}

fn join(first: Commands, then: Commands) -> Commands {
    then.into_iter().fold(first, Commands::and)
}

fn earlier(one: Option<Time>, other: Option<Time>) -> Option<Time> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
