//! Drives the core through seeded schedules of everything that can happen, in every order, against a model of the
//! engines, and checks what must hold at the end of each: nothing outstanding, one answer, bounded time.
//!
//! A failure prints its seed; `KVFERRY_SEED=<seed>` runs that schedule alone.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod dice;
mod world;

use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use dice::{Dice, NEVER, SLOWEST};
use kvferry_handoff::{
    Cause, Command, Commands, Counts, Event, Handoff, Ledger, Limits, Recovery, Stage, Time,
};
use world::{Happening, World};

const SCHEDULES: u64 = 200_000;

fn limits(dice: &mut Dice) -> Limits {
    let ms = Duration::from_millis;
    Limits {
        prefill: dice.chance(50).then(|| ms(dice.below(300) + 1)),
        request: dice.chance(50).then(|| ms(dice.below(900) + 1)),
        decode_stall: dice.chance(30).then(|| ms(dice.below(300) + 1)),
        prefill_grace: ms(dice.below(50)),
        release_grace: ms(dice.below(50)),
        release_attempt: ms(100),
        release_pause: ms(dice.below(50) + 1),
        release_attempts: NonZeroU8::new(u8::try_from(dice.below(3)).unwrap() + 1).unwrap(),
    }
}

fn recovery(dice: &mut Dice) -> Recovery {
    if dice.chance(40) {
        return Recovery::default();
    }
    Recovery {
        same: u32::try_from(dice.below(3)).unwrap(),
        pause: Duration::from_millis(dice.below(50)),
        others: usize::try_from(dice.below(3)).unwrap(),
        local: dice.chance(40),
    }
}

fn time(ms: u64) -> Time {
    Time::since_start(Duration::from_millis(ms))
}

/// The request's core, and those of attempts that were given up on the way.
struct Simulation {
    lives: Vec<Handoff>,
    world: World,
    ledger: Ledger,
    limits: Arc<Limits>,
}

impl Simulation {
    fn follow(&mut self, life: usize, commands: Commands) {
        for command in commands {
            let (orphan, event) = self.world.follow(life, command);
            if let Some((runs, named)) = orphan {
                let (ledger, limits) = (self.ledger.clone(), Arc::clone(&self.limits));
                let (handoff, commands) = Handoff::orphan(ledger, limits, runs, named, time(self.world.now));
                self.lives.push(handoff);
                self.follow(self.lives.len() - 1, commands);
            }
            if let Some(event) = event {
                self.tell(life, event);
            }
        }
    }

    fn tell(&mut self, life: usize, event: Event) {
        let over = matches!(event, Event::DecodeFailed | Event::DecodeRefused | Event::DecodeEnded);
        if over {
            // One leg ends once, and a leg that ended cannot be cancelled.
            let commands = self.lives[life].handle(event, time(self.world.now));
            self.follow(life, commands);
            self.world.end_decode();
        } else {
            let commands = self.lives[life].handle(event, time(self.world.now));
            self.follow(life, commands);
        }
    }

    /// The core that wants to be woken first, and when.
    fn wake(&self) -> Option<(u64, usize)> {
        let wakes = self.lives.iter().enumerate().filter_map(|(life, handoff)| {
            handoff.wake_at().map(|at| (u64::try_from(at.elapsed().as_millis()).unwrap(), life))
        });
        wakes.min()
    }

    /// One step; false at the end.
    fn step(&mut self) -> bool {
        let wake = self.wake();
        match (self.world.next_at(), wake) {
            (Some(next), wake) if wake.is_none_or(|(wake, _)| next <= wake) => {
                let (at, happening) = self.world.take().unwrap();
                // Once the client has its whole answer it cannot leave any more.
                if happening == Happening::ClientLeaves && self.lives[0].is_done() {
                    return true;
                }
                self.world.now = at;
                if let Some((life, event)) = self.world.hear(happening) {
                    self.tell(life, event);
                }
            }
            (_, Some((wake, life))) => {
                assert!(wake >= self.world.now, "woken in the past");
                self.world.now = wake;
                self.tell(life, Event::Tick);
            }
            (_, None) if self.lives.iter().all(Handoff::is_done) => return false,
            // An engine that never answers, no limit set, and a client that waits: until it has had enough.
            (_, None) => {
                let (stage, limits) = (self.lives[0].stage(), &self.limits);
                assert!(limits.request.is_none() && !self.world.client_left, "hangs in {stage:?}");
                assert!(stage != Stage::Prefilling || limits.prefill.is_none());
                assert!(stage == Stage::Prefilling || limits.decode_stall.is_none());
                self.world.client_left = true;
                self.tell(0, Event::ClientLeft);
            }
        }
        true
    }
}

/// Runs one schedule and checks it; how its KV ended, and what the engines and the client saw.
fn run(seed: u64) -> (Counts, World) {
    let mut dice = Dice::new(seed);
    let limits = Arc::new(limits(&mut dice));
    let recovery = recovery(&mut dice);
    let client_leaves = if dice.chance(40) { dice.below(3 * SLOWEST) } else { NEVER };
    let ledger = Ledger::new();
    let (handoff, commands) = if dice.chance(5) {
        Handoff::alone(ledger.clone(), Arc::clone(&limits), time(0))
    } else {
        Handoff::start(ledger.clone(), Arc::clone(&limits), recovery, time(0))
    };
    let mut simulation = Simulation { lives: vec![handoff], world: World::new(dice), ledger, limits };
    simulation.follow(0, commands);
    simulation.world.at(client_leaves, Happening::ClientLeaves);

    let mut steps = 0;
    while simulation.step() {
        steps += 1;
        assert!(steps < 2_000, "the schedule does not end");
    }

    let Simulation { world, ledger, limits, .. } = simulation;
    let counts = ledger.counts();
    assert_eq!(counts.outstanding(), 0);
    assert!(world.answers <= 1 && world.broken <= 1 && world.local <= 1);
    let attempts = (usize::try_from(recovery.same).unwrap() + 1) * (recovery.others + 1);
    assert!(world.attempts.len() <= attempts, "more attempts than the policy allows");
    assert!(world.answers == 1 || world.client_left, "the client got no answer");
    assert!(!world.held_breached, "decode beside prefill answered before prefill was accepted");
    assert!(!world.decode_runs, "a decode leg outlived its request");
    assert!(world.attempts.iter().all(|attempt| !attempt.runs), "a prefill leg outlived its request");
    let held = world.attempts.iter().filter(|attempt| attempt.kv_held).count();
    assert!(counts.expired >= held as u64, "KV is held though nobody gave up on it");
    assert!(counts.expired <= world.releasing.len() as u64, "KV was given up without trying to release it");
    let recovers = recovery.others > 0 || recovery.local;
    let gave_up = world.answered == Some(Command::AnswerError(Cause::PrefillTimeout));
    assert!(!(recovers && gave_up), "a slow prefill was given up though there was another way");
    assert_eq!(counts.consumed, u64::from(world.kv_read));
    if let Some(request) = limits.request {
        let bound =
            request + limits.prefill_grace + limits.longest_release() + Duration::from_millis(2 * SLOWEST);
        assert!(Duration::from_millis(world.now) <= bound, "took {} ms", world.now);
    }
    (counts, world)
}

#[test]
fn every_schedule_ends_with_nothing_outstanding_and_one_answer() {
    if let Ok(seed) = std::env::var("KVFERRY_SEED") {
        run(seed.parse().expect("KVFERRY_SEED is a number"));
        return;
    }
    let mut seen = [0_u64; 9];
    for seed in 0..SCHEDULES {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok((counts, world)) => {
                let this = [
                    counts.consumed,
                    counts.released,
                    counts.expired,
                    u64::from(world.broken),
                    u64::from(world.client_left),
                    u64::from(world.orphans),
                    u64::from(world.retries),
                    u64::from(world.local),
                    u64::from(world.begun),
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
    let outcomes = [
        "consumed",
        "released",
        "expired",
        "broken answer",
        "client left",
        "attempt given up",
        "retried",
        "local prefill",
        "answer begun ahead of decode",
    ];
    for (count, what) in seen.into_iter().zip(outcomes) {
        assert!(count > SCHEDULES / 1000, "only {count} of {SCHEDULES} schedules had: {what}");
    }
}
