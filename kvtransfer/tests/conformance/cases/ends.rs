//! Everything ends, once, whatever happens; and what has failed writes nothing any more.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::backend::Backend;
use crate::command::{Answer, Ask, Command, Seen};
use crate::pattern::Blocks;
use crate::random::Random;
use crate::side::Pair;

use super::sooner_or_later;

const LARGE: u64 = 128 << 20;

fn blocks() -> Blocks {
    Blocks::scattered(LARGE / 2 / 65_536, 65_536)
}

/// Begins transfers that `stop` ends early; whatever comes first must be the whole truth.
fn stopped(
    backend: &'static Backend,
    seed: u64,
    code: &str,
    mut stop: impl FnMut(&mut Pair, Ask, Duration) -> u64,
) {
    let mut pair = Pair::new(backend);
    let mut random = Random::new(seed);
    let (here, there) = (pair.a.region(LARGE), pair.b.region(LARGE));
    pair.b.grant(1, false, there, 0, LARGE);
    pair.b.grant(2, true, there, 0, LARGE);
    let mut in_time = 0;
    for round in 0..12 {
        let write = round % 2 == 0;
        pair.a.must(Command::Fill { region: here, at: 0, len: LARGE, seed: 11 });
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 22 });
        let ask = pair.ask(write, if write { 2 } else { 1 }, here, there, blocks());
        let ask = Ask { notify: Some(vec![round]), ..ask };
        let transfer = stop(&mut pair, ask, sooner_or_later(round, &mut random));
        let end = pair.a.end_of(transfer);
        let (side, region) = if write { (&mut pair.b, there) } else { (&mut pair.a, here) };
        let ended = side.fingerprint(region, 0, LARGE);
        match end {
            Ok(()) => {
                side.verify(region, blocks(), write, if write { 11 } else { 22 });
                pair.b.see(&Seen::Notified(pair.b_to_a, vec![round]));
            }
            Err(found) => {
                assert_eq!(found, code);
                in_time += 1;
                sleep(Duration::from_millis(20));
                assert_eq!(side.fingerprint(region, 0, LARGE), ended, "bytes were written after the end");
                pair.b.poll(0);
                assert!(!pair.b.log.contains(&Seen::Notified(pair.b_to_a, vec![round])));
            }
        }
    }
    println!("    {in_time} of 12 ended early");
    // The bytes can be used at once: nothing is left behind.
    for token in [1, 2] {
        pair.b.must(Command::Revoke { token });
        pair.b.see(&Seen::Freed(token));
    }
    pair.a.must(Command::Deregister { region: here });
    pair.b.must(Command::Deregister { region: there });
}

pub fn a_cancelled_transfer_ends_and_writes_nothing_after(backend: &'static Backend, seed: u64) {
    stopped(backend, seed, "cancelled", |pair, ask, moment| {
        let transfer = pair.a.submit(ask);
        sleep(moment);
        for _ in 0..2 {
            pair.a.must(Command::Cancel { transfer });
        }
        transfer
    });
}

pub fn a_transfer_past_its_deadline_ends(backend: &'static Backend, seed: u64) {
    stopped(backend, seed, "deadline", |pair, ask, moment| {
        let deadline = Some(u64::try_from(moment.as_millis()).unwrap());
        pair.a.submit(Ask { deadline, ..ask })
    });
}

pub fn a_peer_that_stands_still_keeps_no_deadline_waiting(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (here, there) = (pair.a.filled(4096, 11), pair.b.filled(4096, 22));
    pair.b.grant(1, false, there, 0, 4096);
    pair.b.grant(2, true, there, 0, 4096);
    let one = Blocks::one(0, 4096);
    // Once with a peer that is well, so that both sides know all that they need.
    for (write, token) in [(false, 1), (true, 2)] {
        let transfer = pair.a.submit(pair.ask(write, token, here, there, one));
        assert_eq!(pair.a.end_of(transfer), Ok(()));
    }
    pair.b.signal(Signal::SIGSTOP);
    let read = pair.ask(false, 1, here, there, one);
    let read = pair.a.submit(Ask { deadline: Some(100), ..read });
    let late = pair.ask(true, 2, here, there, one);
    let late = pair.a.submit(Ask { deadline: Some(0), ..late });
    for transfer in [late, read] {
        assert_eq!(pair.a.end_of(transfer), Err("deadline".into()));
    }
    pair.b.signal(Signal::SIGCONT);
}

pub fn a_peer_killed_in_mid_transfer_fails_what_was_under_way_and_is_lost(
    backend: &'static Backend,
    seed: u64,
) {
    let mut random = Random::new(seed);
    for _ in 0..3 {
        let mut pair = Pair::new(backend);
        let (here, there) = (pair.a.filled(2 * LARGE, 11), pair.b.filled(LARGE, 22));
        pair.b.grant(1, false, there, 0, LARGE / 2);
        pair.b.grant(2, true, there, LARGE / 2, LARGE / 2);
        let part = Blocks { count: blocks().count / 8, ..blocks() };
        let places: Vec<(bool, Blocks)> = (0..4)
            .flat_map(|number| {
                let at = number * part.extent();
                [
                    (false, Blocks { here: at, there: at, ..part }),
                    (true, Blocks { here: LARGE + at, there: LARGE / 2 + at, ..part }),
                ]
            })
            .collect();
        let transfers: Vec<u64> = places
            .iter()
            .map(|(write, blocks)| {
                pair.a.submit(pair.ask(*write, 1 + u8::from(*write), here, there, *blocks))
            })
            .collect();
        sleep(Duration::from_micros(random.below(20_000)));
        pair.b.kill();
        assert_eq!(pair.a.loss_of(pair.a_to_b), "peer_lost");
        for (transfer, (write, blocks)) in transfers.into_iter().zip(places) {
            match pair.a.transfers[&transfer].clone().expect("everything with a peer ends before it is lost")
            {
                Ok(()) if write => {}
                Ok(()) => pair.a.verify(here, blocks, false, 22),
                Err(code) => assert_eq!(code, "peer_lost"),
            }
        }
        let ended = pair.a.fingerprint(here, 0, LARGE);
        sleep(Duration::from_millis(20));
        assert_eq!(pair.a.fingerprint(here, 0, LARGE), ended, "bytes were written after the end");
        pair.a.must(Command::Deregister { region: here });
    }
}

pub fn closing_under_load_ends_everything(backend: &'static Backend, _seed: u64) {
    for other_side in [false, true] {
        let mut pair = Pair::new(backend);
        let (here, there) = (pair.a.region(LARGE), pair.b.region(LARGE));
        pair.b.grant(1, false, there, 0, LARGE / 2);
        pair.b.grant(2, true, there, LARGE / 2, LARGE / 2);
        for number in 0..16 {
            let len = LARGE / 32;
            let at = number * len;
            pair.a.submit(pair.ask(false, 1, here, there, Blocks::one(at, len)));
            pair.a.submit(pair.ask(true, 2, here, there, Blocks::one(LARGE / 2 + at, len)));
        }
        let closing = if other_side { &mut pair.b } else { &mut pair.a };
        for _ in 0..2 {
            closing.must(Command::Close);
        }
        pair.a.settle();
        let code = if other_side { "peer_lost" } else { "closed" };
        for end in pair.a.transfers.values().flatten() {
            assert!(*end == Ok(()) || *end == Err(code.into()), "{end:?}");
        }
        let (closed, left, peer) = if other_side {
            (&mut pair.b, &mut pair.a, pair.a_to_b)
        } else {
            (&mut pair.a, &mut pair.b, pair.b_to_a)
        };
        assert_eq!(left.loss_of(peer), "peer_lost");
        assert_eq!(closed.refused(Command::Metadata), "closed");
        assert_eq!(closed.refused(Command::Connect { metadata: left.metadata.clone() }), "closed");
        assert_eq!(closed.refused(Command::Region { len: 4096, arena: true }), "closed");
        closed.poll(0);
        assert_eq!(closed.ask(Command::Readable), Answer::Bool(false));
    }
}

pub fn a_region_in_use_cannot_be_forgotten(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (here, there) = (pair.a.region(LARGE), pair.b.region(LARGE));
    let mut busy = 0;
    for token in 1..6 {
        pair.b.grant(token, false, there, 0, LARGE);
        let transfer = pair.a.submit(pair.ask(false, token, here, there, Blocks::one(0, LARGE)));
        assert_eq!(pair.b.refused(Command::Deregister { region: there }), "region_busy", "a lease names it");
        match pair.a.ask(Command::Deregister { region: here }) {
            Answer::Error(code) => {
                assert_eq!(code, "region_busy");
                busy += 1;
                assert_eq!(pair.a.end_of(transfer), Ok(()));
            }
            other => panic!("a transfer of {LARGE} bytes was done before the next command: {other:?}"),
        }
        pair.b.must(Command::Revoke { token });
        pair.b.see(&Seen::Freed(token));
    }
    assert_eq!(busy, 5);
    pair.a.must(Command::Deregister { region: here });
    pair.b.must(Command::Deregister { region: there });
    assert_eq!(pair.a.refused(Command::Deregister { region: here }), "unknown_region");
    let ask = pair.ask(false, 1, here, there, Blocks::one(0, 1));
    assert_eq!(pair.a.refused(Command::Submit(ask)), "unknown_region");
}

pub fn the_wake_descriptor_is_readable_exactly_while_there_are_events(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let readable = |pair: &mut Pair| pair.b.ask(Command::Readable);
    assert_eq!(readable(&mut pair), Answer::Bool(false), "all events are polled");
    for round in 0..20 {
        pair.a.must(Command::Notify { peer: pair.a_to_b, message: vec![round] });
        // Its process sleeps on the descriptor, without polling.
        let start = std::time::Instant::now();
        while readable(&mut pair) == Answer::Bool(false) {
            assert!(start.elapsed().as_secs() < 60, "the event does not come");
        }
        assert_eq!(readable(&mut pair), Answer::Bool(true), "looking changes nothing");
        pair.b.poll(0);
        assert_eq!(pair.b.log.last(), Some(&Seen::Notified(pair.b_to_a, vec![round])));
        assert_eq!(readable(&mut pair), Answer::Bool(false));
    }
}
