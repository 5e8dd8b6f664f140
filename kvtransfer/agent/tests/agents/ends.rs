//! Transfers that end otherwise: cancelled, out of time, or left behind by their peer. They free everything.

use std::time::Duration;

use kvferry_agent::TransferOptions;
use kvferry_faults::Plan;
use kvferry_transfer::Access;

use crate::support::{MIB, Of, Side, end, eventually, pair, segments, soon, wait};

/// Every end of a transfer is lost on the way: nothing ends by itself.
const MUTE: Plan = Plan {
    seed: 1,
    fail_submit: 0,
    fail_done: 0,
    drop: 1000,
    delay: 0,
    delay_by: Duration::ZERO,
    reorder: 0,
    duplicate_notify: 0,
    corrupt: 0,
    lose_peer: 0,
    at_most: 0,
};

fn is_idle(side: &Side) -> bool {
    let snapshot = wait(side.agent.snapshot()).unwrap();
    (snapshot.transfers, snapshot.chunks) == (0, 0)
}

#[test]
fn a_cancelled_transfer_ends_as_such_and_frees_its_memory() {
    let (a, b, peer) = pair(&[Of::Tcp], 64 * MIB);
    let token = b.grant(Access::Read);
    for count in [1, 4096] {
        let transfer = a.agent.read(&peer, token, segments(a.region, b.region, 64 * MIB, count), soon());
        transfer.cancel();
        if let Err(code) = end(transfer) {
            assert_eq!(code, "cancelled");
        }
    }
    eventually("idleness", || is_idle(&a));
    a.agent.deregister(a.region).unwrap();
}

#[test]
fn a_transfer_that_nobody_waits_for_is_cancelled() {
    let (a, b, peer) = pair(&[Of::Shm], 64 * MIB);
    let token = b.grant(Access::Write);
    for _ in 0..50 {
        drop(a.agent.write(&peer, token, segments(a.region, b.region, 64 * MIB, 64), soon()));
    }
    eventually("idleness", || is_idle(&a));
    a.agent.deregister(a.region).unwrap();
    b.agent.revoke(token);
    eventually("the lease's end", || wait(b.agent.snapshot()).unwrap().leases == 0);
}

#[test]
fn a_deadline_ends_what_a_fabric_never_ends() {
    let (a, b) = (
        Side::with("a", 1, &[Of::Tcp], MIB, |mut options| {
            options.pace.stop_within = Duration::from_millis(100);
            options
        }),
        Side::new("b", &[Of::Tcp], MIB),
    );
    let peer = a.meet(&b);
    let token = b.grant(Access::Read);
    a.fabrics[0].plan(MUTE);
    let transfer = a.agent.read(
        &peer,
        token,
        segments(a.region, b.region, MIB, 1),
        TransferOptions::within(Duration::from_millis(100)),
    );
    assert_eq!(end(transfer).unwrap_err(), "deadline");
    assert!(a.fabrics[0].counts().dropped >= 1);
    eventually("idleness", || is_idle(&a));
    a.agent.deregister(a.region).unwrap();
}

#[test]
fn a_chunk_that_never_ends_is_tried_again_over_another_lane() {
    let (a, b) = (
        Side::with("a", 1, &[Of::Shm, Of::Tcp], MIB, |mut options| {
            options.pace.chunk_within = Duration::from_millis(100);
            options.pace.stop_within = Duration::from_millis(100);
            options
        }),
        Side::new("b", &[Of::Shm, Of::Tcp], MIB),
    );
    let peer = a.meet(&b);
    let token = b.grant(Access::Read);
    b.fill(9);
    a.fabrics[0].plan(MUTE);
    let report = end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 1), soon())).unwrap();
    assert!(a.bytes(0, MIB) == b.bytes(0, MIB), "every byte");
    assert_eq!((&*report.lanes[0].lane, report.retries[0].error.code()), ("tcp", "stalled"));
    assert!(report.fell_back);
}

#[test]
fn a_deadline_that_has_passed_and_a_peer_that_is_gone_are_told_at_once() {
    let (mut a, b, peer) = pair(&[Of::Tcp], MIB);
    let token = b.grant(Access::Read);
    let all = segments(a.region, b.region, MIB, 1);
    let late = TransferOptions::within(Duration::ZERO);
    assert_eq!(end(a.agent.read(&peer, token, all.clone(), late)).unwrap_err(), "deadline");
    drop(b);
    assert_eq!(a.lost(), "peer_lost");
    assert_eq!(end(a.agent.read(&peer, token, all, soon())).unwrap_err(), "unknown_peer");
}

#[test]
fn closing_ends_everything_and_the_peer_hears_of_it() {
    let (a, mut b, peer) = pair(&[Of::Shm, Of::Tcp], 64 * MIB);
    let token = b.grant(Access::Read);
    let transfer = a.agent.read(&peer, token, segments(a.region, b.region, 64 * MIB, 64), soon());
    a.agent.close();
    if let Err(code) = end(transfer) {
        assert_eq!(code, "closed");
    }
    assert_eq!(a.agent.register(a.memory.clone()).unwrap_err().code(), "closed");
    assert_eq!(end(a.agent.read(&peer, token, vec![], soon())).unwrap_err(), "closed");
    assert_eq!(b.lost(), "peer_lost");
}
