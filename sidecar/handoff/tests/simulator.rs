//! Drives the core through seeded schedules of everything that can happen, in every order, against a model of the two
//! engines, and checks what must hold at the end of each: nothing outstanding, one answer, bounded time.
//!
//! A failure prints its seed; `KVFERRY_SEED=<seed>` runs that schedule alone.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU8;
use std::time::Duration;

use kvferry_handoff::{Command, Counts, Event, Handoff, Held, Ledger, Limits, Stage, Time};

const SCHEDULES: u64 = 200_000;
/// Longest that any engine of the model thinks, in milliseconds; "never" is beyond every limit.
const SLOWEST: u64 = 400;
const NEVER: u64 = u64::MAX;

/// xorshift64*: small, seeded, the same everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    fn delay(&mut self) -> u64 {
        if self.chance(5) { NEVER } else { self.below(SLOWEST) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    PrefillOk { hands_out_kv: bool },
    PrefillError,
    PrefillBreaks,
    DecodeHead,
    DecodeError,
    DecodeData,
    DecodeEnd,
    DecodeBreaks,
    ClientLeaves,
    ReleaseAnswer { taken: bool },
}

impl Happening {
    fn of(self) -> &'static str {
        match self {
            Self::PrefillOk { .. } | Self::PrefillError | Self::PrefillBreaks => "prefill",
            Self::DecodeHead
            | Self::DecodeError
            | Self::DecodeData
            | Self::DecodeEnd
            | Self::DecodeBreaks => "decode",
            Self::ClientLeaves => "client",
            Self::ReleaseAnswer { .. } => "release",
        }
    }
}

/// What the engines hold and what the client has seen.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing that is so or not")]
struct World {
    kv_held: bool,
    answers: u32,
    broken: u32,
    client_left: bool,
    prefills: u32,
    decodes: u32,
    decode_runs: bool,
    prefill_runs: bool,
    /// The decode engine has read the KV.
    kv_read: bool,
}

struct Schedule {
    dice: Dice,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    serial: u64,
}

impl Schedule {
    fn at(&mut self, delay: u64, happening: Happening) {
        if delay != NEVER {
            self.serial += 1;
            self.queue.push(Reverse((self.now + delay, self.serial, happening)));
        }
    }
    fn cancel(&mut self, party: &str) {
        self.queue.retain(|Reverse((_, _, happening))| happening.of() != party);
    }
}

fn limits(dice: &mut Dice) -> Limits {
    let ms = Duration::from_millis;
    Limits {
        prefill: dice.chance(50).then(|| ms(dice.below(300) + 1)),
        request: dice.chance(50).then(|| ms(dice.below(900) + 1)),
        prefill_grace: ms(dice.below(50)),
        release_grace: ms(dice.below(50)),
        release_attempt: ms(100),
        release_pause: ms(dice.below(50) + 1),
        release_attempts: NonZeroU8::new(u8::try_from(dice.below(3)).unwrap() + 1).unwrap(),
    }
}

fn follow(commands: impl IntoIterator<Item = Command>, world: &mut World, schedule: &mut Schedule) {
    for command in commands {
        match command {
            Command::SendPrefill => {
                world.prefills += 1;
                world.prefill_runs = true;
                let delay = schedule.dice.delay();
                let happening = match schedule.dice.below(10) {
                    0 => Happening::PrefillError,
                    1 => Happening::PrefillBreaks,
                    roll => Happening::PrefillOk { hands_out_kv: roll != 2 },
                };
                schedule.at(delay, happening);
            }
            Command::CancelPrefill => {
                assert!(world.prefill_runs, "cancelled a prefill that does not run");
                world.prefill_runs = false;
                // Now and then the answer is already on its way.
                if !schedule.dice.chance(20) {
                    schedule.cancel("prefill");
                }
            }
            Command::SendDecode => {
                assert!(!world.prefill_runs, "decode sent while prefill runs");
                world.decodes += 1;
                world.decode_runs = true;
                let head = schedule.dice.delay();
                if schedule.dice.chance(10) {
                    schedule.at(head, Happening::DecodeError);
                } else if head != NEVER {
                    schedule.at(head, Happening::DecodeHead);
                    let data = head + schedule.dice.below(SLOWEST);
                    if schedule.dice.chance(80) {
                        schedule.at(data, Happening::DecodeData);
                    }
                    if schedule.dice.chance(90) {
                        let end = data + schedule.dice.below(SLOWEST);
                        schedule.at(end, Happening::DecodeEnd);
                    }
                }
                if schedule.dice.chance(20) {
                    let broken = schedule.dice.below(2 * SLOWEST);
                    schedule.at(broken, Happening::DecodeBreaks);
                }
            }
            Command::CancelDecode => {
                assert!(world.decode_runs, "cancelled a decode that does not run");
                world.decode_runs = false;
                schedule.cancel("decode");
            }
            Command::AnswerPrefill | Command::AnswerError(_) => world.answers += 1,
            Command::AnswerDecode => {
                assert!(world.decode_runs);
                world.answers += 1;
            }
            Command::BreakAnswer(_) => {
                assert_eq!(world.answers, 1, "broke an answer that had not begun");
                world.broken += 1;
                world.decode_runs = false;
                schedule.cancel("decode");
            }
            Command::Release => {
                assert!(!world.kv_read, "released KV that was read");
                assert!(!world.decode_runs, "released KV under a running decode");
                let delay = schedule.dice.delay();
                let taken = schedule.dice.chance(70);
                schedule.at(delay, Happening::ReleaseAnswer { taken });
            }
            Command::CancelRelease => schedule.cancel("release"),
        }
    }
}

fn event(happening: Happening, world: &mut World, ledger: &Ledger) -> Event {
    match happening {
        Happening::PrefillOk { hands_out_kv } => {
            world.prefill_runs = false;
            world.kv_held = hands_out_kv;
            Event::PrefillAccepted(hands_out_kv.then(|| -> Held { ledger.hold() }))
        }
        Happening::PrefillError => {
            world.prefill_runs = false;
            Event::PrefillRefused
        }
        Happening::PrefillBreaks => {
            world.prefill_runs = false;
            Event::PrefillFailed
        }
        Happening::DecodeHead => Event::DecodeStarted,
        Happening::DecodeError => Event::DecodeRefused,
        Happening::DecodeData => {
            world.kv_read = world.kv_held;
            world.kv_held = false;
            Event::DecodeProduced
        }
        Happening::DecodeEnd => {
            world.decode_runs = false;
            Event::DecodeEnded
        }
        Happening::DecodeBreaks => {
            world.decode_runs = false;
            Event::DecodeFailed
        }
        Happening::ClientLeaves => {
            world.client_left = true;
            Event::ClientLeft
        }
        Happening::ReleaseAnswer { taken } => {
            world.kv_held &= !taken;
            Event::ReleaseEnded(taken)
        }
    }
}

/// Runs one schedule and checks it; how its KV ended, and whether the client was answered or cut off.
fn run(seed: u64) -> (Counts, World) {
    let mut dice = Dice::new(seed);
    let limits = limits(&mut dice);
    let client_leaves = if dice.chance(40) { dice.below(3 * SLOWEST) } else { NEVER };
    let mut schedule = Schedule { dice, now: 0, queue: BinaryHeap::new(), serial: 0 };
    let mut world = World::default();
    let ledger = Ledger::new();
    let time = |ms: u64| Time::since_start(Duration::from_millis(ms));

    let (mut handoff, commands) = Handoff::start(limits, time(0));
    follow(commands, &mut world, &mut schedule);
    schedule.at(client_leaves, Happening::ClientLeaves);

    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 200, "the schedule does not end");
        let wake = handoff.wake_at().map(|at| u64::try_from(at.elapsed().as_millis()).unwrap());
        let next = schedule.queue.peek().map(|Reverse((at, ..))| *at);
        let input = match (next, wake) {
            (Some(next), wake) if wake.is_none_or(|wake| next <= wake) => {
                let Reverse((at, _, happening)) = schedule.queue.pop().unwrap();
                // Once the client has its whole answer it cannot leave any more.
                if happening == Happening::ClientLeaves && handoff.is_done() {
                    continue;
                }
                schedule.now = at;
                event(happening, &mut world, &ledger)
            }
            (_, Some(wake)) => {
                assert!(wake >= schedule.now, "woken in the past");
                schedule.now = wake;
                Event::Tick
            }
            (_, None) if handoff.is_done() => break,
            // An engine that never answers, no limit set, and a client that waits: until it has had enough.
            (_, None) => {
                assert!(limits.request.is_none() && !world.client_left, "hangs in {:?}", handoff.stage());
                assert!(handoff.stage() != Stage::Prefilling || limits.prefill.is_none());
                event(Happening::ClientLeaves, &mut world, &ledger)
            }
        };
        let over = matches!(input, Event::DecodeFailed | Event::DecodeRefused | Event::DecodeEnded);
        let commands = handoff.handle(input, time(schedule.now));
        follow(commands, &mut world, &mut schedule);
        if over {
            // One leg ends once.
            schedule.cancel("decode");
            world.decode_runs = false;
        }
    }

    let counts = ledger.counts();
    assert_eq!(counts.outstanding(), 0);
    assert!(world.answers <= 1 && world.prefills == 1 && world.decodes <= 1 && world.broken <= 1);
    assert!(world.answers == 1 || world.client_left, "the client got no answer");
    assert!(!world.prefill_runs && !world.decode_runs, "a leg outlived its request");
    if world.kv_held {
        assert_eq!(counts.expired, 1, "KV is held though nobody gave up on it");
    }
    if world.kv_read {
        assert_eq!((counts.consumed, counts.released, counts.expired), (1, 0, 0));
    }
    if let Some(request) = limits.request {
        let bound = request + limits.longest_release() + Duration::from_millis(SLOWEST);
        assert!(Duration::from_millis(schedule.now) <= bound, "took {} ms", schedule.now);
    }
    (counts, world)
}

#[test]
fn every_schedule_ends_with_nothing_outstanding_and_one_answer() {
    if let Ok(seed) = std::env::var("KVFERRY_SEED") {
        run(seed.parse().expect("KVFERRY_SEED is a number"));
        return;
    }
    let mut seen = [0_u64; 5];
    for seed in 0..SCHEDULES {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((counts, world)) => {
                let this = [
                    counts.consumed,
                    counts.released,
                    counts.expired,
                    u64::from(world.broken),
                    u64::from(world.client_left),
                ];
                seen.iter_mut().zip(this).for_each(|(sum, count)| *sum += count);
            }
            Err(failure) => {
                eprintln!("run again with KVFERRY_SEED={seed}");
                std::panic::resume_unwind(failure);
            }
        }
    }
    // A simulator that never meets an outcome proves nothing about it.
    for (count, what) in
        seen.into_iter().zip(["consumed", "released", "expired", "broken answer", "client left"])
    {
        assert!(count > SCHEDULES / 1000, "only {count} of {SCHEDULES} schedules had: {what}");
    }
}
