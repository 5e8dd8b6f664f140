//! The core under hundreds of thousands of seeded schedules: chunks that end well, badly, twice, late or never; lanes that
//! come and go; peers that are lost or come back as another life; cancels and deadlines. `KVFERRY_SEED` repeats one.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod fairness;
mod random;
mod rules;
mod speed;
mod tiers;
mod world;

use std::sync::Arc;

use kvferry_transfer::fabric::{Copying, Lane};
use random::Random;
use world::World;

/// Schedules of a usual run: some seconds.
const SCHEDULES: u64 = 20_000;

/// Steps of a schedule: enough for several transfers to begin, fail over, and end.
const STEPS: u64 = 120;

/// What carries the bytes of a lane.
fn way(copying: Copying) -> Arc<Lane> {
    let (transport, device) = ("tcp".to_owned(), "lo".to_owned());
    Arc::new(Lane { transport, device, copying, encrypted: false })
}

fn run(seed: u64) -> world::Tally {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.drain()
}

#[test]
fn whatever_happens_each_transfer_ends_once_and_nothing_is_left() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number("KVFERRY_SEED") {
        run(seed);
        return;
    }
    let mut tally = world::Tally::default();
    for seed in 0..number("KVFERRY_SCHEDULES").unwrap_or(SCHEDULES) {
        let result = std::panic::catch_unwind(|| run(seed));
        let of = result.unwrap_or_else(|_| panic!("repeat it with KVFERRY_SEED={seed}"));
        tally.add(&of);
    }
    println!("{tally:?}");
    // A simulator that never gets anywhere proves nothing.
    let runs = tally.begun;
    assert!(runs > 0 && tally.well * 5 > runs, "a fifth of the transfers arrives: {tally:?}");
    for (count, what) in [
        (tally.cancelled, "cancelled"),
        (tally.stale, "stale"),
        (tally.corrupt, "given up as corrupt"),
        (tally.late, "out of time"),
        (tally.unsettled, "left to a fabric that broke its word"),
        (tally.fell_back, "carried by a slower lane"),
        (tally.no_lane, "without a lane"),
        (tally.retried, "tried again"),
    ] {
        assert!(count * 10_000 > runs, "too few transfers were {what}: {tally:?}");
    }
}

#[test]
fn a_seed_repeats_its_schedule() {
    let mut random = Random::new(7);
    for _ in 0..20 {
        let seed = random.next();
        assert_eq!(run(seed), run(seed));
    }
}
