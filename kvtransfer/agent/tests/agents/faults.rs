//! The agent over fabrics that go wrong by plan: with verification, no wrong byte ever counts.

use std::time::Duration;

use kvferry_agent::{Report, TransferOptions};
use kvferry_faults::Plan;
use kvferry_transfer::Access;
use kvferry_transfer::fabric::Direction;

use crate::support::{MIB, Of, Side, end, pair, pattern, segments, soon, wait};

/// Small chunks, so that there are many.
fn many_chunks(name: &str, fabrics: &[Of<'_>], len: u64) -> Side {
    Side::with(name, 1, fabrics, len, |mut options| {
        options.pace.chunk_bytes = 64 << 10;
        options.pace.lane_bytes = 1 << 20;
        options.pace.chunk_within = Duration::from_secs(2);
        options.pace.stop_within = Duration::from_millis(200);
        options
    })
}

fn corrupt_of(side: &Side) -> u64 {
    let snapshot = wait(side.agent.snapshot()).unwrap();
    snapshot.peers.iter().flat_map(|peer| &peer.lanes).map(|lane| lane.corrupt).sum()
}

#[test]
fn every_corrupted_byte_is_caught_and_repaired_in_both_directions() {
    const LEN: u64 = 8 * MIB;
    let mut injected = 0;
    for (seed, fabrics) in (0..).zip([&[Of::Shm][..], &[Of::Tcp][..]]) {
        let (a, b) = (many_chunks("a", fabrics, LEN), Side::new("b", fabrics, LEN));
        let peer = a.meet(&b);
        let (read, write) = (b.grant(Access::Read), b.grant(Access::Write));
        a.fabrics[0].writes_to(b.fabrics[0].memory());
        for round in 0..6 {
            let before = (a.fabrics[0].counts().corrupted, corrupt_of(&a));
            let direction = if round % 2 == 0 { Direction::Read } else { Direction::Write };
            // Only as often as attempts suffice: four times in a row hardly ever.
            let plan = Plan { seed: seed * 100 + u64::from(round), corrupt: 200, ..Plan::default() };
            a.fabrics[0].plan(plan);
            let all = segments(a.region, b.region, LEN, 512);
            let transfer = match direction {
                Direction::Read => {
                    b.fill(round);
                    a.agent.read(&peer, read, all, soon().verified())
                }
                Direction::Write => {
                    a.fill(round);
                    a.agent.write(&peer, write, all, soon().verified())
                }
            };
            let failed = wait(transfer).err();
            let of_round = a.fabrics[0].counts().corrupted - before.0;
            let caught = corrupt_of(&a) - before.1;
            injected += of_round;
            if let Some(failure) = &failed {
                assert_eq!(failure.error.code(), "corrupt", "{failure}");
                // What else was under way then counts for nothing, and nobody looks at it any more.
                assert!((4..=of_round).contains(&caught), "{caught} caught of {of_round}");
            } else {
                assert_eq!(caught, of_round, "round {round}: caught, of those that were injected");
                assert!(a.bytes(0, LEN) == pattern(LEN, round), "round {round}: every byte here");
                assert!(b.bytes(0, LEN) == pattern(LEN, round), "round {round}: every byte there");
            }
        }
    }
    assert!(injected >= 200, "only {injected} bytes were corrupted");
}

#[test]
fn bytes_that_are_wrong_time_and_again_fail_the_transfer_and_the_message_is_never_sent() {
    let (a, mut b, peer) = pair(&[Of::Tcp], MIB);
    a.fabrics[0].writes_to(b.fabrics[0].memory());
    a.fabrics[0].plan(Plan { corrupt: 1000, ..Plan::default() });
    let token = b.grant(Access::Write);
    let all = segments(a.region, b.region, MIB, 64);
    let failure = wait(a.agent.write(&peer, token, all, soon().verified().notifying("done"))).unwrap_err();
    assert_eq!((failure.error.code(), failure.report.bytes), ("corrupt", 0));
    assert_eq!(failure.report.retried, 4);
    assert!(failure.report.retries.iter().all(|retry| retry.error.code() == "corrupt" && retry.segment < 64));
    a.agent.notify(&peer, "after".into()).unwrap();
    assert_eq!(b.notified(), b"after", "the first that is heard");
}

#[test]
fn without_verification_corruption_is_not_seen_which_is_what_it_is_for() {
    let (a, b, peer) = pair(&[Of::Tcp], MIB);
    a.fabrics[0].plan(Plan { corrupt: 1000, ..Plan::default() });
    let token = b.grant(Access::Read);
    b.fill(1);
    end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 1), soon())).unwrap();
    assert!(a.bytes(0, MIB) != pattern(1 << 20, 1));
}

#[test]
fn shm_that_fails_in_the_middle_is_followed_by_tcp_and_the_report_says_why() {
    let fabrics = [Of::Shm, Of::Tcp];
    let (a, b) = (many_chunks("a", &fabrics, 16 * MIB), Side::new("b", &fabrics, 16 * MIB));
    let peer = a.meet(&b);
    let token = b.grant(Access::Read);
    b.fill(2);
    // Some chunks arrive before the first fault.
    a.fabrics[0].plan(Plan { seed: 3, fail_done: 100, ..Plan::default() });
    let report =
        end(a.agent.read(&peer, token, segments(a.region, b.region, 16 * MIB, 1024), soon())).unwrap();
    assert!(a.bytes(0, 16 * MIB) == pattern(16 << 20, 2), "every byte");
    let lanes: Vec<&str> = report.lanes.iter().map(|of| &*of.lane).collect();
    assert!(lanes.contains(&"shm") && lanes.contains(&"tcp"), "{report:?}");
    assert!(report.fell_back && report.retried > 0);
    assert!(
        report.retries.iter().all(|retry| &*retry.lane == "shm" && retry.error.code() == "system"),
        "{report:?}"
    );
    let snapshot = wait(a.agent.snapshot()).unwrap();
    assert_eq!(snapshot.peers[0].lanes[1].fallbacks, 1);
}

#[test]
fn a_lane_that_is_lost_in_the_middle_is_replaced_and_met_again() {
    let fabrics = [Of::Shm, Of::Tcp];
    let (a, b) = (many_chunks("a", &fabrics, 16 * MIB), Side::new("b", &fabrics, 16 * MIB));
    let peer = a.meet(&b);
    let token = b.grant(Access::Read);
    b.fill(4);
    a.fabrics[0].plan(Plan { seed: 5, lose_peer: 50, at_most: 1, ..Plan::default() });
    let all = segments(a.region, b.region, 16 * MIB, 1024);
    let report = end(a.agent.read(&peer, token, all.clone(), soon())).unwrap();
    assert!(a.bytes(0, 16 * MIB) == pattern(16 << 20, 4), "every byte");
    assert_eq!(a.fabrics[0].counts().lost_peers, 1);
    assert!(report.fell_back, "{report:?}");
    crate::support::eventually("shm again", || {
        let report = end(a.agent.read(&peer, token, all.clone(), soon())).unwrap();
        report.lanes.iter().all(|of| &*of.lane == "shm")
    });
}

#[test]
fn under_all_faults_at_once_what_is_said_to_have_arrived_has() {
    const LEN: u64 = 4 * MIB;
    let fabrics = [Of::Shm, Of::Tcp];
    let (a, b) = (many_chunks("a", &fabrics, LEN), Side::new("b", &fabrics, LEN));
    let peer = a.meet(&b);
    let (mut well, mut ill) = (0, 0);
    for round in 0..40_u8 {
        for (index, fabric) in a.fabrics.iter().enumerate() {
            fabric.writes_to(b.fabrics[index].memory());
            fabric.plan(Plan {
                seed: u64::from(round) * 2 + index as u64,
                fail_submit: 10,
                fail_done: 10,
                drop: 1,
                delay: 30,
                delay_by: Duration::from_millis(5),
                reorder: 50,
                duplicate_notify: 100,
                corrupt: 20,
                lose_peer: 3,
                at_most: 0,
            });
        }
        let reading = round % 2 == 0;
        if reading { &b } else { &a }.fill(round);
        let token = b.grant(if reading { Access::Read } else { Access::Write });
        let all = segments(a.region, b.region, LEN, 256);
        let options = TransferOptions::within(Duration::from_secs(20)).verified();
        let transfer = if reading {
            a.agent.read(&peer, token, all, options)
        } else {
            a.agent.write(&peer, token, all, options)
        };
        match wait(transfer) {
            Ok(Report { bytes, .. }) => {
                well += 1;
                assert_eq!(bytes, LEN);
                assert!(a.bytes(0, LEN) == b.bytes(0, LEN) && a.bytes(0, LEN) == pattern(LEN, round));
            }
            Err(failure) => {
                ill += 1;
                assert!(failure.error.code() != "peer_lost", "the agents are connected: {failure}");
            }
        }
        b.agent.revoke(token);
    }
    assert!(well > 20, "{well} arrived, {ill} did not");
    let faults: Vec<_> = a.fabrics.iter().map(|fabric| fabric.counts()).collect();
    assert!(faults[0].total() > 100, "{faults:?}");
}
