//! Several network interfaces, for which loopback's addresses stand in.

use kvferry_faults::Plan;
use kvferry_transfer::Access;
use kvferry_transfer::fabric::Fabric;

use crate::support::{MIB, Of, Side, end, eventually, pattern, segments, soon, wait};

const RAILS: [Of<'static>; 3] =
    [Of::TcpAt([127, 0, 0, 1]), Of::TcpAt([127, 0, 0, 2]), Of::TcpAt([127, 0, 0, 3])];
const LEN: u64 = 48 * MIB;

fn railed(name: &str) -> Side {
    Side::with(name, 1, &RAILS, LEN, |mut options| {
        options.pace.chunk_bytes = 256 << 10;
        options.pace.lane_bytes = 1 << 20;
        options
    })
}

#[test]
fn a_transfer_is_striped_over_all_rails() {
    let (a, b) = (railed("a"), railed("b"));
    let peer = a.meet(&b);
    let token = b.grant(Access::Read);
    b.fill(1);
    let all = segments(a.region, b.region, LEN, 3072);
    eventually("all rails", || {
        let lanes = wait(a.agent.snapshot()).unwrap().peers.remove(0).lanes;
        lanes.iter().all(|lane| lane.state == "up")
    });
    let report = end(a.agent.read(&peer, token, all, soon())).unwrap();
    assert!(a.bytes(0, LEN) == pattern(LEN, 1), "every byte");
    let mut lanes: Vec<&str> = report.lanes.iter().map(|of| &*of.lane).collect();
    lanes.sort_unstable();
    assert_eq!(lanes, ["tcp#0", "tcp#1", "tcp#2"]);
    assert_eq!(report.lanes.iter().map(|of| of.bytes).sum::<u64>(), LEN);
    assert!(report.lanes.iter().all(|of| of.bytes >= LEN / 20 && of.chunks > 0), "{report:?}");
    assert!(!report.fell_back);
}

#[test]
fn a_rail_that_breaks_is_done_without() {
    let (a, b) = (railed("a"), railed("b"));
    let peer = a.meet(&b);
    let token = b.grant(Access::Write);
    eventually("all rails", || {
        let lanes = wait(a.agent.snapshot()).unwrap().peers.remove(0).lanes;
        lanes.iter().all(|lane| lane.state == "up")
    });
    a.fill(2);
    // The rail ends when some chunks have gone over it.
    a.fabrics[1].plan(Plan { seed: 9, lose_peer: 200, at_most: 1, ..Plan::default() });
    let all = segments(a.region, b.region, LEN, 3072);
    let transfer = a.agent.write(&peer, token, all.clone(), soon().verified());
    eventually("the break", || a.fabrics[1].counts().lost_peers == 1);
    b.fabrics[1].close();
    let report = end(transfer).unwrap();
    assert!(b.bytes(0, LEN) == pattern(LEN, 2), "every byte");
    assert!(report.retries.iter().all(|retry| &*retry.lane == "tcp#1"), "{:?}", report.retries);
    a.fill(3);
    let report = end(a.agent.write(&peer, token, all, soon())).unwrap();
    assert!(b.bytes(0, LEN) == pattern(LEN, 3), "every byte");
    assert!(report.lanes.iter().all(|of| &*of.lane != "tcp#1"), "{:?}", report.lanes);
}
