//! What a lease allows, and nothing else, until it ends.

use std::thread::sleep;
use std::time::Duration;

use crate::backend::Backend;
use crate::command::{Command, Seen};
use crate::pattern::Blocks;
use crate::random::Random;
use crate::side::{LONG, Pair};

use super::sooner_or_later;

const LARGE: u64 = 128 << 20;

pub fn what_no_lease_allows_is_refused_and_touches_nothing(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (here, there) = (pair.a.filled(8192, 11), pair.b.filled(8192, 22));
    pair.b.grant(1, false, there, 1000, 1000);
    pair.b.grant(2, true, there, 1000, 1000);
    for (token, write) in [(3, false), (4, true)] {
        pair.b.must(Command::Grant { token, write, spans: vec![(there, 1000, 1000)], millis: 1 });
        pair.b.see(&Seen::Freed(token));
    }
    let (before_here, before_there) = (pair.a.fingerprint(here, 0, 8192), pair.b.fingerprint(there, 0, 8192));
    let inside = Blocks::one(1000, 1000);
    for (write, token, remote, blocks, codes) in [
        (false, 9, there, inside, &["no_lease"][..]),
        (true, 9, there, inside, &["no_lease"]),
        (true, 1, there, inside, &["lease_direction"]),
        (false, 2, there, inside, &["lease_direction"]),
        (false, 1, there, Blocks::one(999, 1000), &["outside_lease"]),
        (true, 2, there, Blocks::one(1001, 1000), &["outside_lease"]),
        (true, 2, there, Blocks { there: u64::MAX - 5, ..inside }, &["outside_lease", "out_of_region"]),
        (false, 1, 77, inside, &["outside_lease", "unknown_region"]),
        (true, 2, there, Blocks { count: 3, len: 500, ..inside }, &["outside_lease"]),
        // Whether an expired lease is still known to have been one is up to the fabric.
        (false, 3, there, inside, &["lease_expired", "no_lease"]),
        (true, 4, there, inside, &["lease_expired", "no_lease"]),
    ] {
        let beyond = codes.len() == 2 && codes[0] == "outside_lease";
        let ask =
            crate::command::Ask { notify: Some(vec![1]), ..pair.ask(write, token, here, remote, blocks) };
        // A fabric that knows the peer's regions refuses what lies beyond them at once.
        let code = match pair.a.try_submit(ask.clone()) {
            Ok(transfer) => pair.a.end_of(transfer).expect_err("it is not allowed"),
            Err(code) if beyond => code,
            Err(code) => panic!("{code} at once: {ask:?}"),
        };
        assert!(codes.contains(&code.as_str()), "{code}: {ask:?}");
    }
    assert_eq!(pair.a.fingerprint(here, 0, 8192), before_here);
    assert_eq!(pair.b.fingerprint(there, 0, 8192), before_there);
    pair.b.poll(20);
    assert!(
        !pair.b.log.iter().any(|seen| matches!(seen, Seen::Notified(..))),
        "no message of what was refused"
    );
    // All of it, to the last byte.
    for (write, token) in [(false, 1), (true, 2)] {
        let transfer = pair.a.submit(pair.ask(write, token, here, there, inside));
        assert_eq!(pair.a.end_of(transfer), Ok(()));
    }
}

pub fn a_lease_revoked_in_mid_write_is_freed_and_nothing_is_written_after(
    backend: &'static Backend,
    seed: u64,
) {
    let mut pair = Pair::new(backend);
    let mut random = Random::new(seed);
    let blocks = Blocks::scattered(LARGE / 2 / 65_536, 65_536);
    let (here, there) = (pair.a.filled(LARGE, 11), pair.b.region(LARGE));
    let mut in_time = 0;
    for round in 0..12 {
        let token = 10 + round;
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 22 });
        pair.b.grant(token, true, there, 0, LARGE);
        let transfer = pair.a.submit(pair.ask(true, token, here, there, blocks));
        sleep(sooner_or_later(round, &mut random));
        pair.b.must(Command::Revoke { token });
        pair.b.see(&Seen::Freed(token));
        let freed = pair.b.fingerprint(there, 0, LARGE);
        match pair.a.end_of(transfer) {
            Ok(()) => pair.b.verify(there, blocks, true, 11),
            Err(code) => {
                assert_eq!(code, "no_lease");
                in_time += 1;
            }
        }
        sleep(Duration::from_millis(20));
        assert_eq!(pair.b.fingerprint(there, 0, LARGE), freed, "bytes were written after they were freed");
    }
    println!("    {in_time} of 12 ended early");
}

pub fn a_lease_revoked_in_mid_read_is_freed_and_no_later_byte_is_read(backend: &'static Backend, seed: u64) {
    let mut pair = Pair::new(backend);
    let mut random = Random::new(seed);
    let blocks = Blocks::scattered(LARGE / 2 / 65_536, 65_536);
    let (here, there) = (pair.a.region(LARGE), pair.b.region(LARGE));
    let mut in_time = 0;
    for round in 0..12 {
        let token = 10 + round;
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 22 });
        pair.b.grant(token, false, there, 0, LARGE);
        let transfer = pair.a.submit(pair.ask(false, token, here, there, blocks));
        sleep(sooner_or_later(round, &mut random));
        pair.b.must(Command::Revoke { token });
        pair.b.see(&Seen::Freed(token));
        // The bytes are used for something else now. Who is told that the transfer was done must not see any of it.
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 33 });
        match pair.a.end_of(transfer) {
            Ok(()) => pair.a.verify(here, blocks, false, 22),
            Err(code) => {
                assert_eq!(code, "no_lease");
                in_time += 1;
            }
        }
        let ended = pair.a.fingerprint(here, 0, LARGE);
        sleep(Duration::from_millis(20));
        assert_eq!(pair.a.fingerprint(here, 0, LARGE), ended, "bytes were written after the end");
    }
    println!("    {in_time} of 12 ended early");
}

pub fn an_owner_that_parts_in_mid_read_may_use_its_bytes_at_once(backend: &'static Backend, seed: u64) {
    let mut pair = Pair::new(backend);
    let mut random = Random::new(seed);
    let blocks = Blocks::scattered(LARGE / 2 / 65_536, 65_536);
    let (here, there) = (pair.a.region(LARGE), pair.b.region(LARGE));
    pair.b.grant(1, false, there, 0, LARGE);
    let mut in_time = 0;
    for round in 0..12 {
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 22 });
        let transfer = pair.a.submit(pair.ask(false, 1, here, there, blocks));
        sleep(sooner_or_later(round, &mut random));
        pair.b.must(Command::Disconnect { peer: pair.b_to_a });
        assert_eq!(pair.b.loss_of(pair.b_to_a), "cancelled");
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 33 });
        match pair.a.end_of(transfer) {
            Ok(()) => pair.a.verify(here, blocks, false, 22),
            Err(code) => {
                assert_eq!(code, "peer_lost");
                in_time += 1;
            }
        }
        assert_eq!(pair.a.loss_of(pair.a_to_b), "peer_lost");
        pair = Pair::of(pair.a, pair.b);
    }
    println!("    {in_time} of 12 ended early");
}

pub fn a_lease_that_expires_in_mid_write_is_freed(backend: &'static Backend, seed: u64) {
    let mut pair = Pair::new(backend);
    let mut random = Random::new(seed);
    let blocks = Blocks::scattered(LARGE / 2 / 65_536, 65_536);
    let (here, there) = (pair.a.filled(LARGE, 11), pair.b.region(LARGE));
    let mut in_time = 0;
    for round in 0..12 {
        let token = 10 + round;
        pair.b.must(Command::Fill { region: there, at: 0, len: LARGE, seed: 22 });
        let millis = 1 + u64::try_from(sooner_or_later(round, &mut random).as_millis()).unwrap();
        pair.b.must(Command::Grant { token, write: true, spans: vec![(there, 0, LARGE)], millis });
        let transfer = pair.a.submit(pair.ask(true, token, here, there, blocks));
        pair.b.see(&Seen::Freed(token));
        let freed = pair.b.fingerprint(there, 0, LARGE);
        match pair.a.end_of(transfer) {
            Ok(()) => pair.b.verify(there, blocks, true, 11),
            Err(code) => {
                assert!(["lease_expired", "no_lease"].contains(&code.as_str()), "{code}");
                in_time += 1;
            }
        }
        sleep(Duration::from_millis(20));
        assert_eq!(pair.b.fingerprint(there, 0, LARGE), freed, "bytes were written after they were freed");
    }
    println!("    {in_time} of 12 ended early");
}

pub fn a_lease_is_freed_once(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let there = pair.b.region(4096);
    pair.b.grant(1, true, there, 0, 4096);
    let again = Command::Grant { token: 1, write: false, spans: vec![], millis: LONG };
    assert_eq!(pair.b.refused(again), "token_in_use", "a token opens one lease");
    pair.b.must(Command::Grant { token: 2, write: true, spans: vec![(there, 0, 1)], millis: 30 });
    for _ in 0..2 {
        pair.b.must(Command::Revoke { token: 1 });
    }
    pair.b.see(&Seen::Freed(1));
    pair.b.see(&Seen::Freed(2));
    pair.b.must(Command::Revoke { token: 2 });
    pair.b.poll(50);
    let freed = pair.b.log.iter().filter(|seen| matches!(seen, Seen::Freed(_))).count();
    assert_eq!(freed, 2, "{:?}", pair.b.log);
    // Its token may be used again: the first lease is over.
    pair.b.grant(1, true, there, 0, 4096);
}

pub fn bytes_that_are_not_registered_cannot_be_leased(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let there = pair.b.region(4096);
    for (span, code) in [
        ((there, 1, 4096), "out_of_region"),
        ((there, u64::MAX, 2), "out_of_region"),
        ((77, 0, 1), "unknown_region"),
    ] {
        let lease = Command::Grant { token: 1, write: true, spans: vec![(there, 0, 1), span], millis: LONG };
        assert_eq!(pair.b.refused(lease), code);
    }
    pair.b.grant(1, true, there, 0, 4096);
}
