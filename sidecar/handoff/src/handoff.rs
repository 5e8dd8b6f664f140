//! The state machine of one disaggregated request whose legs run one after the other.
//!
//! What it guards:
//! - the client gets exactly one answer, or leaves;
//! - a leg that dies, and a deadline that passes, take everything else down;
//! - KV that was handed out is consumed, or released by a bounded number of attempts, and only then given up.
//!
//! The race that matters most: KV counts as consumed only when the decode engine has *produced* something. Its
//! response head proves nothing (engines send it before they have looked at the KV), so whatever ends the decode leg
//! before the first data is followed by a release. Releasing twice is harmless; not releasing strands GPU memory.
//!
//! And one more: when the client leaves, prefill's answer may already be on its way, with KV that only that answer
//! names. So a prefill leg that nobody waits for is given a moment ([`Limits::prefill_grace`]) before it is dropped.

use std::num::NonZeroU8;
use std::time::Duration;

use crate::ledger::Held;
use crate::time::Time;

/// Bounds of one request. `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the prefill leg may take.
    pub prefill: Option<Duration>,
    /// How long both legs together may take, from the request's start to the answer's last byte.
    pub request: Option<Duration>,
    /// How long a prefill leg that nobody waits for any more is still listened to before it is cancelled.
    pub prefill_grace: Duration,
    /// Pause before the first release attempt if the decode leg was already sent, so that a release never overtakes the
    /// request it belongs to: released first and scheduled later, the decode engine could read freed blocks.
    pub release_grace: Duration,
    /// How long one release attempt may take.
    pub release_attempt: Duration,
    /// Pause between release attempts.
    pub release_pause: Duration,
    /// How often a release is tried before the KV is left to the engine's lease.
    pub release_attempts: NonZeroU8,
}

impl Limits {
    /// The longest that a request can outlive its end (client gone, leg failed, deadline passed).
    pub fn longest_release(&self) -> Duration {
        self.release_grace
            + (self.release_attempt + self.release_pause) * u32::from(self.release_attempts.get())
    }
}

/// One of the two upstream exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// To the prefill engine.
    Prefill,
    /// To the decode engine.
    Decode,
}

/// Why the client gets an error of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The leg failed; who runs it knows how.
    Failed(Leg),
    /// The prefill leg's own limit passed.
    PrefillTimeout,
    /// The limit of both legs together passed during this leg.
    RequestTimeout(Leg),
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// Prefill succeeded; with the KV it handed out, if any.
    PrefillAccepted(Option<Held>),
    /// Prefill answered with an error of its own, which goes to the client as it is.
    PrefillRefused,
    /// No usable answer came from prefill.
    PrefillFailed,
    /// The decode engine began a successful answer.
    DecodeStarted,
    /// The decode engine answered with an error of its own, which goes to the client as it is.
    DecodeRefused,
    /// First data of a successful decode answer: the KV was read.
    DecodeProduced,
    /// The decode answer is complete.
    DecodeEnded,
    /// The decode leg broke.
    DecodeFailed,
    /// The client is gone.
    ClientLeft,
    /// The release attempt ended; whether the engines took it.
    ReleaseEnded(bool),
    /// Time has passed; see [`Handoff::wake_at`].
    Tick,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Send the prefill leg.
    SendPrefill,
    /// Drop the prefill leg.
    CancelPrefill,
    /// Send the decode leg, with what prefill returned.
    SendDecode,
    /// Drop the decode leg.
    CancelDecode,
    /// Answer with the prefill engine's own response.
    AnswerPrefill,
    /// Begin the answer with the decode engine's response, and pass on what comes.
    AnswerDecode,
    /// Answer with an error.
    AnswerError(Cause),
    /// The answer has begun and cannot be completed: break it off so that the client sees it was cut.
    BreakAnswer(Cause),
    /// Make one attempt to release the KV.
    Release,
    /// Give the running release attempt up.
    CancelRelease,
}

/// Up to three commands, in the order in which to follow them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commands {
    list: [Option<Command>; 3],
    len: usize,
}

impl Commands {
    fn and(mut self, command: Command) -> Self {
        self.list[self.len] = Some(command);
        self.len += 1;
        self
    }
}

impl From<Command> for Commands {
    fn from(command: Command) -> Self {
        Self::default().and(command)
    }
}

impl IntoIterator for Commands {
    type Item = Command;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Command>, 3>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter().flatten()
    }
}

/// Where a request is, for logs and debugging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The prefill leg runs.
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

#[derive(Debug)]
enum State {
    Prefilling {
        until: Option<Time>,
    },
    Withdrawing {
        until: Time,
    },
    Decoding {
        kv: Option<Held>,
        answering: bool,
    },
    Streaming,
    /// `attempt`: when the running attempt ends at the latest, or else when to begin the next.
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
    limits: Limits,
    /// When both legs must be over.
    deadline: Option<Time>,
    state: State,
}

impl Handoff {
    /// A request that starts `now`. Follow the returned commands.
    pub fn start(limits: Limits, now: Time) -> (Self, Commands) {
        let handoff = Self {
            limits,
            deadline: limits.request.map(|limit| now + limit),
            state: State::Prefilling { until: limits.prefill.map(|limit| now + limit) },
        };
        (handoff, Command::SendPrefill.into())
    }

    /// Takes an event and says what to do. Events that the state has no use for change nothing: an answer that crossed
    /// its cancellation is no error. KV that arrives that way is released.
    pub fn handle(&mut self, event: Event, now: Time) -> Commands {
        match (std::mem::replace(&mut self.state, State::Done), event) {
            (State::Prefilling { .. }, Event::PrefillAccepted(kv)) => {
                self.state = State::Decoding { kv, answering: false };
                Command::SendDecode.into()
            }
            (State::Prefilling { .. }, Event::PrefillRefused) => Command::AnswerPrefill.into(),
            (State::Prefilling { .. }, Event::PrefillFailed) => {
                Command::AnswerError(Cause::Failed(Leg::Prefill)).into()
            }
            (State::Prefilling { .. }, Event::ClientLeft) => {
                self.withdraw(now);
                Commands::default()
            }
            (State::Prefilling { until }, Event::Tick) => self.prefill_tick(until, now),

            (State::Withdrawing { .. } | State::Done, Event::PrefillAccepted(Some(kv))) => {
                self.state = self.releasing(kv, now);
                Commands::default()
            }
            (State::Withdrawing { until }, Event::Tick) if now >= until => Command::CancelPrefill.into(),
            (State::Decoding { kv, .. }, Event::DecodeStarted) => {
                self.state = State::Decoding { kv, answering: true };
                Command::AnswerDecode.into()
            }
            (State::Decoding { kv, .. }, Event::DecodeProduced) => {
                kv.into_iter().for_each(Held::consumed);
                self.state = State::Streaming;
                Commands::default()
            }
            // Complete without anything produced: an error told inside the stream, or nothing at all.
            (State::Decoding { kv, answering: true }, Event::DecodeEnded) => {
                self.release_after(kv, now, Commands::default())
            }
            (State::Decoding { kv, .. }, Event::DecodeRefused) => {
                self.release_after(kv, now, Command::AnswerDecode.into())
            }
            (State::Decoding { kv, answering }, Event::DecodeFailed | Event::DecodeEnded) => {
                self.release_after(kv, now, end_answer(answering, Cause::Failed(Leg::Decode)).into())
            }
            (State::Decoding { kv, .. }, Event::ClientLeft) => {
                self.release_after(kv, now, Command::CancelDecode.into())
            }
            (State::Decoding { kv, answering }, Event::Tick) if self.is_late(now) => {
                let end = end_answer(answering, Cause::RequestTimeout(Leg::Decode));
                self.release_after(kv, now, Commands::from(Command::CancelDecode).and(end))
            }

            (State::Streaming, Event::DecodeEnded)
            | (
                State::Withdrawing { .. },
                Event::PrefillAccepted(None) | Event::PrefillRefused | Event::PrefillFailed,
            ) => Commands::default(),
            (State::Streaming, Event::DecodeFailed) => {
                Command::BreakAnswer(Cause::Failed(Leg::Decode)).into()
            }
            (State::Streaming, Event::ClientLeft) => Command::CancelDecode.into(),
            (State::Streaming, Event::Tick) if self.is_late(now) => Commands::from(Command::CancelDecode)
                .and(Command::BreakAnswer(Cause::RequestTimeout(Leg::Decode))),

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

            (state, _) => {
                self.state = state;
                Commands::default()
            }
        }
    }

    /// When to come back with [`Event::Tick`] if nothing else happens before.
    pub fn wake_at(&self) -> Option<Time> {
        match &self.state {
            State::Prefilling { until } => match (*until, self.deadline) {
                (Some(until), Some(deadline)) => Some(until.min(deadline)),
                (until, deadline) => until.or(deadline),
            },
            State::Decoding { .. } | State::Streaming => self.deadline,
            State::Withdrawing { until: wake } | State::Releasing { wake, .. } => Some(*wake),
            State::Done => None,
        }
    }

    /// Where the request is.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Prefilling { .. } => Stage::Prefilling,
            State::Withdrawing { .. } => Stage::Withdrawing,
            State::Decoding { .. } => Stage::Decoding,
            State::Streaming => Stage::Streaming,
            State::Releasing { .. } => Stage::Releasing,
            State::Done => Stage::Done,
        }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn prefill_tick(&mut self, until: Option<Time>, now: Time) -> Commands {
        let cause = if self.is_late(now) {
            Cause::RequestTimeout(Leg::Prefill)
        } else if until.is_some_and(|until| now >= until) {
            Cause::PrefillTimeout
        } else {
            self.state = State::Prefilling { until };
            return Commands::default();
        };
        self.withdraw(now);
        Command::AnswerError(cause).into()
    }

    /// Nobody waits for prefill any more.
    fn withdraw(&mut self, now: Time) {
        self.state = State::Withdrawing { until: now + self.limits.prefill_grace };
    }

    /// The decode leg is over or being cancelled; `commands` end the client's side. KV still held goes back.
    fn release_after(&mut self, kv: Option<Held>, now: Time, commands: Commands) -> Commands {
        if let Some(kv) = kv {
            self.state = self.releasing(kv, now + self.limits.release_grace);
        }
        commands
    }

    fn releasing(&self, kv: Held, first_attempt: Time) -> State {
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
}

fn end_answer(answering: bool, cause: Cause) -> Command {
    if answering { Command::BreakAnswer(cause) } else { Command::AnswerError(cause) }
}
