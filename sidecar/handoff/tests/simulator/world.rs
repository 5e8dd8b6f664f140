//! The model of client and engines: what they do when commanded, and what they hold.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use kvferry_handoff::{Again, Command, Decode, Event, Target};

use crate::dice::{Dice, NEVER, SLOWEST};

/// What will happen, and to which attempt or release it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    Prepared { attempt: usize, ok: bool },
    Prefill { attempt: usize, how: Prefilled },
    Decode { leg: usize, how: Decoded },
    ClientLeaves,
    Release { life: usize, taken: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prefilled {
    Accepted { kv: bool, anew: bool },
    Refused(u8),
    Broke(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Decoded {
    Head,
    Error,
    Data,
    End,
    Breaks,
}

fn again(code: u8) -> Again {
    [Again::Never, Again::Elsewhere, Again::Here, Again::Anywhere][usize::from(code)]
}

/// One prefill attempt, as its engine sees it.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that is so or not")]
pub(crate) struct Attempt {
    pub(crate) overlap: bool,
    pub(crate) named: bool,
    pub(crate) runs: bool,
    /// The engine holds KV for it.
    pub(crate) kv_held: bool,
    /// It answered with success.
    pub(crate) accepted: bool,
    /// The core that cares for it; 0 is the request itself, others are orphans.
    pub(crate) life: usize,
}

/// Engines, client and clock.
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that is so or not")]
pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    serial: u64,
    pub(crate) attempts: Vec<Attempt>,
    /// Decode legs sent so far; the last may run.
    pub(crate) decodes: usize,
    pub(crate) decode_runs: bool,
    /// Parts of a decode answer that nobody reads yet.
    unread: Vec<Happening>,
    /// The running leg computes the prompt itself.
    alone: bool,
    /// It answered with an error of its own, which may be told at any time.
    refused: bool,
    pub(crate) local: u32,
    pub(crate) kv_read: bool,
    pub(crate) answers: u32,
    /// With what prefill returned, before decode has answered.
    pub(crate) begun: bool,
    /// Somebody reads decode's answer.
    reading: bool,
    /// With what, if it was not decode's answer.
    pub(crate) answered: Option<Command>,
    /// Cores that tried to release.
    pub(crate) releasing: BTreeSet<usize>,
    pub(crate) broken: u32,
    pub(crate) client_left: bool,
    pub(crate) orphans: u32,
    pub(crate) retries: u32,
    /// Answered while prefill beside had not been accepted.
    pub(crate) held_breached: bool,
}

impl World {
    pub(crate) fn new(dice: Dice) -> Self {
        Self {
            dice,
            now: 0,
            queue: BinaryHeap::new(),
            serial: 0,
            attempts: Vec::new(),
            decodes: 0,
            decode_runs: false,
            unread: Vec::new(),
            alone: false,
            refused: false,
            local: 0,
            kv_read: false,
            answers: 0,
            begun: false,
            reading: false,
            answered: None,
            releasing: BTreeSet::new(),
            broken: 0,
            client_left: false,
            orphans: 0,
            retries: 0,
            held_breached: false,
        }
    }

    pub(crate) fn at(&mut self, delay: u64, happening: Happening) {
        if delay != NEVER {
            self.serial += 1;
            self.queue.push(Reverse((self.now + delay, self.serial, happening)));
        }
    }

    /// When the next thing happens.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    pub(crate) fn take(&mut self) -> Option<(u64, Happening)> {
        let Reverse((at, _, happening)) = self.queue.pop()?;
        Some((at, happening))
    }

    fn cancel(&mut self, unwanted: impl Fn(&Happening) -> bool) {
        self.queue.retain(|Reverse((_, _, happening))| !unwanted(happening));
    }

    /// The present attempt of `life`.
    fn attempt_of(&self, life: usize) -> usize {
        self.attempts.iter().rposition(|attempt| attempt.life == life).expect("every life has an attempt")
    }

    /// Does what core `life` commands. Returns a new orphan's (runs, named), and an event that follows at once.
    pub(crate) fn follow(&mut self, life: usize, command: Command) -> (Option<(bool, bool)>, Option<Event>) {
        match command {
            Command::Prepare(target) => {
                self.retries += u32::from(!self.attempts.is_empty());
                assert!(
                    target == Target::Next
                        || self.attempts.iter().all(|attempt| !attempt.runs || attempt.life != life)
                );
                self.cancel(|happening| matches!(happening, Happening::Prepared { .. }));
                let attempt = self.attempts.len();
                let (overlap, named) = (self.dice.chance(40), self.dice.chance(40));
                self.attempts.push(Attempt { overlap, named, life, ..Attempt::default() });
                let delay = if self.dice.chance(70) { 0 } else { self.dice.delay() };
                let ok = !self.dice.chance(5);
                self.at(delay, Happening::Prepared { attempt, ok });
            }
            Command::SendPrefill => {
                let attempt = self.attempt_of(life);
                self.attempts[attempt].runs = true;
                let delay = self.dice.delay();
                let severity = u8::try_from(self.dice.below(4)).expect("four is small");
                let how = match self.dice.below(10) {
                    0 => Prefilled::Refused(severity),
                    1 | 2 => Prefilled::Broke(severity),
                    roll => {
                        let anew = self.attempts[attempt].overlap && self.dice.chance(20);
                        Prefilled::Accepted { kv: roll != 3, anew }
                    }
                };
                self.at(delay, Happening::Prefill { attempt, how });
            }
            Command::CancelPrefill => self.cancel_prefill(life),
            Command::OrphanPrefill => {
                let attempt = self.attempts.iter().rposition(|attempt| attempt.life == life);
                let attempt =
                    &mut self.attempts[attempt.expect("an attempt is orphaned before the next is made")];
                self.orphans += 1;
                attempt.life = usize::try_from(self.orphans).expect("few");
                return (Some((attempt.runs, attempt.named)), None);
            }
            Command::AskLocal => return (None, Some(Event::LocalGranted(self.dice.chance(60)))),
            Command::SendDecode(how) => {
                self.send_decode(how);
                if how == Decode::AfterPrefill && self.dice.chance(20) {
                    self.begun = true;
                    self.answers += 1;
                    return (None, Some(Event::AnswerBegun));
                }
            }
            Command::CancelDecode => {
                assert!(self.decode_runs, "cancelled a decode that does not run");
                self.end_decode();
            }
            Command::AnswerPrefill | Command::AnswerError(_) => {
                self.answers += 1;
                self.answered = Some(command);
            }
            Command::AnswerDecode => {
                assert!(self.decode_runs);
                self.held_breached |= !self.alone && !self.refused && self.attempts[self.attempt_of(0)].runs;
                assert!(!(self.begun && self.refused), "told of a refusal behind the beginning of an answer");
                self.answers += u32::from(!self.begun);
                self.reading = true;
                for part in std::mem::take(&mut self.unread) {
                    self.at(0, part);
                }
            }
            Command::BreakAnswer(_) => {
                assert_eq!(self.answers, 1, "broke an answer that had not begun");
                self.broken += 1;
                self.end_decode();
            }
            Command::Release => {
                let attempt = self.attempts[self.attempt_of(life)];
                assert!(!(self.kv_read && life == 0), "released KV that was read");
                assert!(!(self.decode_runs && life == 0), "released KV under a running decode");
                assert!(attempt.named || attempt.accepted, "released KV that nobody named");
                self.releasing.insert(life);
                let (delay, taken) = (self.dice.delay(), self.dice.chance(70));
                self.at(delay, Happening::Release { life, taken });
            }
            Command::CancelRelease => {
                self.cancel(
                    |happening| matches!(happening, Happening::Release { life: of, .. } if *of == life),
                );
            }
        }
        (None, None)
    }

    fn cancel_prefill(&mut self, life: usize) {
        let attempt = self.attempt_of(life);
        assert!(self.attempts[attempt].runs, "cancelled a prefill that does not run");
        self.attempts[attempt].runs = false;
        // Now and then the answer is already on its way. What was named in advance is released by its name instead.
        if self.attempts[attempt].named || !self.dice.chance(20) {
            self.cancel(
                |happening| matches!(happening, Happening::Prefill { attempt: of, .. } if *of == attempt),
            );
        }
    }

    fn send_decode(&mut self, how: Decode) {
        assert!(!self.decode_runs, "two decode legs at once");
        match how {
            Decode::AfterPrefill => assert!(self.attempts[self.attempt_of(0)].accepted),
            Decode::BesidePrefill => assert!(self.attempts[self.attempt_of(0)].overlap),
            Decode::Alone => self.local += 1,
        }
        self.alone = how == Decode::Alone;
        self.decode_runs = true;
        self.decodes += 1;
        let leg = self.decodes;
        let head = self.dice.delay();
        let at = |world: &mut Self, delay, how| world.at(delay, Happening::Decode { leg, how });
        if self.dice.chance(10) {
            at(self, head, Decoded::Error);
        } else if head != NEVER {
            at(self, head, Decoded::Head);
            let data = head + self.dice.below(SLOWEST);
            if self.dice.chance(80) {
                at(self, data, Decoded::Data);
            }
            if self.dice.chance(90) {
                let end = data + self.dice.below(SLOWEST);
                at(self, end, Decoded::End);
            }
        }
        if self.dice.chance(20) {
            let broken = self.dice.below(2 * SLOWEST);
            at(self, broken, Decoded::Breaks);
        }
    }

    /// No more is heard of the decode leg.
    pub(crate) fn end_decode(&mut self) {
        self.decode_runs = false;
        self.unread.clear();
        self.cancel(|happening| matches!(happening, Happening::Decode { .. }));
    }

    /// The happening as core `life` hears of it. `None`: an engine holds data back that nobody asked for yet.
    pub(crate) fn hear(&mut self, happening: Happening) -> Option<(usize, Event)> {
        Some(match happening {
            Happening::Prepared { attempt, ok: true } => {
                let Attempt { overlap, named, life, .. } = self.attempts[attempt];
                (life, Event::Prepared { overlap, named })
            }
            Happening::Prepared { attempt, ok: false } => {
                (self.attempts[attempt].life, Event::PrefillFailed(Again::Elsewhere))
            }
            Happening::Prefill { attempt, how } => {
                let attempt = &mut self.attempts[attempt];
                attempt.runs = false;
                let event = match how {
                    Prefilled::Accepted { kv, anew } => {
                        attempt.accepted = true;
                        attempt.kv_held |= kv;
                        Event::PrefillAccepted { kv, anew }
                    }
                    Prefilled::Refused(severity) => Event::PrefillRefused(again(severity)),
                    Prefilled::Broke(severity) => {
                        // The answer was lost; the engine may have computed all the same.
                        attempt.kv_held |= attempt.named;
                        Event::PrefillFailed(again(severity))
                    }
                };
                (attempt.life, event)
            }
            Happening::Decode { how, leg } => {
                let answering = self.reading;
                (
                    0,
                    match how {
                        Decoded::Head => Event::DecodeStarted,
                        Decoded::Error => {
                            self.refused = true;
                            Event::DecodeRefused
                        }
                        // Nobody reads the body before the answer begins: what comes waits.
                        Decoded::Data | Decoded::End if !answering => {
                            self.unread.push(Happening::Decode { leg, how });
                            return None;
                        }
                        Decoded::Data => {
                            if !self.alone {
                                let attempt = self.attempt_of(0);
                                self.kv_read |= self.attempts[attempt].kv_held;
                                self.attempts[attempt].kv_held = false;
                            }
                            Event::DecodeProduced
                        }
                        Decoded::End => Event::DecodeEnded,
                        Decoded::Breaks => Event::DecodeFailed,
                    },
                )
            }
            Happening::ClientLeaves => {
                self.client_left = true;
                (0, Event::ClientLeft)
            }
            Happening::Release { life, taken } => {
                let attempt = self.attempt_of(life);
                self.attempts[attempt].kv_held &= !taken;
                (life, Event::ReleaseEnded(taken))
            }
        })
    }
}
