//! Lanes of other people's libraries, beside our own: what they are by the fabric's word decides which carries, and what one
//! leaves behind the other finishes. Each test runs in a process of its own, for a process has one UCX.

use std::path::{Path, PathBuf};

use kvferry_faults::Plan;
use kvferry_ffi_testing::{Copy, each_in_its_own_process, files_of, python_folders, skipped};
use kvferry_transfer::Access;
use kvferry_transfer::fabric::ucx::Want;
use kvferry_transfer::fabric::{Copying, Fabric};

use crate::support::{MIB, Of, Side, end, eventually, pattern, segments, soon, wait};

const LEN: u64 = 32 * MIB;

/// What the variable names, or else the newest that the checkout's environment has.
fn newest(variable: &str, installed: Vec<Copy>) -> Vec<Copy> {
    let named = std::env::var_os(variable).map(|file| vec![Copy::file(PathBuf::from(file))]);
    named.unwrap_or_else(|| installed.into_iter().take(1).collect())
}

fn with_ucx(name: &str, test: impl FnOnce(&Path)) {
    let installed = files_of(kvferry_ucx_sys::candidates_in(&python_folders()));
    each_in_its_own_process(name, &newest("KVFERRY_UCX_LIBRARY", installed), test);
}

fn with_nixl(name: &str, test: impl FnOnce(&Path)) {
    let installed = files_of(kvferry_nixl_sys::candidates_in(&python_folders()));
    each_in_its_own_process(name, &newest("KVFERRY_NIXL_LIBRARY", installed), test);
}

fn side(name: &str, fabrics: &[Of<'_>]) -> Side {
    Side::with(name, 1, fabrics, LEN, |mut options| {
        options.pace.chunk_bytes = 256 << 10;
        options.pace.lane_bytes = 1 << 20;
        options
    })
}

fn pair(fabrics: &[Of<'_>]) -> (Side, Side, kvferry_agent::Peer) {
    let (a, b) = (side("a", fabrics), side("b", fabrics));
    let peer = a.meet(&b);
    (a, b, peer)
}

/// Reads all and writes all back, verified: the lanes that carried it.
fn moved(a: &Side, b: &Side, peer: &kvferry_agent::Peer, seed: u8) -> Vec<String> {
    let all = segments(a.region, b.region, LEN, 1024);
    b.fill(seed);
    let token = b.grant(Access::Read);
    let read = end(a.agent.read(peer, token, all.clone(), soon().verified())).unwrap();
    assert!(a.bytes(0, LEN) == pattern(LEN, seed), "every byte here");
    a.fill(seed + 1);
    let token = b.grant(Access::Write);
    let written = end(a.agent.write(peer, token, all, soon().verified())).unwrap();
    assert!(b.bytes(0, LEN) == pattern(LEN, seed + 1), "every byte there");
    let mut lanes: Vec<String> =
        read.lanes.iter().chain(&written.lanes).map(|of| of.lane.to_string()).collect();
    lanes.sort_unstable();
    lanes.dedup();
    lanes
}

fn lane(a: &Side, label: &str) -> kvferry_agent::core::LaneView {
    let lanes = wait(a.agent.snapshot()).unwrap().peers.remove(0).lanes;
    lanes.into_iter().find(|lane| &*lane.label == label).unwrap()
}

/// What the lane is found to be, once that is known.
fn way(a: &Side, label: &str) -> kvferry_transfer::fabric::Lane {
    eventually("the lane", || lane(a, label).way.is_some());
    (*lane(a, label).way.unwrap()).clone()
}

fn ucx<'a>(library: &'a Path, transports: Option<&'a str>, want: Want) -> Of<'a> {
    Of::Ucx { library, transports, want }
}

#[test]
fn ucx_goes_before_tcp_where_it_copies_nothing_and_tcp_finishes_what_it_leaves() {
    with_ucx(
        "libraries::ucx_goes_before_tcp_where_it_copies_nothing_and_tcp_finishes_what_it_leaves",
        |library| {
            let fabrics = [ucx(library, None, Want::Any), Of::Tcp];
            let (a, b, peer) = pair(&fabrics);
            let found = way(&a, "ucx");
            println!("{found}");
            if found.copying != Copying::ZeroCopy {
                return skipped("this UCX has no lane without copies on this machine");
            }
            assert_eq!(moved(&a, &b, &peer, 1), ["ucx"]);
            // It is lost when some chunks have gone over it, and does not come back.
            a.fabrics[0].plan(Plan { seed: 2, lose_peer: 100, at_most: 1, ..Plan::default() });
            let token = b.grant(Access::Read);
            b.fill(9);
            let transfer =
                a.agent.read(&peer, token, segments(a.region, b.region, LEN, 1024), soon().verified());
            eventually("the loss", || a.fabrics[0].counts().lost_peers == 1);
            b.fabrics[0].close();
            let report = end(transfer).unwrap();
            assert!(a.bytes(0, LEN) == pattern(LEN, 9), "every byte");
            assert!(report.fell_back && report.lanes.iter().any(|of| &*of.lane == "tcp"), "{report:?}");
            assert!(report.retries.iter().all(|retry| &*retry.lane == "ucx"), "{report:?}");
            assert_eq!(
                moved(&a, &b, &peer, 3),
                ["tcp"],
                "the other one is closed, and leases are granted all the same"
            );
            assert!(lane(&a, "tcp").fallbacks > 0 && lane(&a, "ucx").losses > 0);
        },
    );
}

#[test]
fn ucx_that_goes_through_sockets_itself_stands_behind_tcp_and_the_snapshot_says_so() {
    with_ucx(
        "libraries::ucx_that_goes_through_sockets_itself_stands_behind_tcp_and_the_snapshot_says_so",
        |library| {
            let (a, b, peer) = pair(&[ucx(library, Some("tcp"), Want::Any), Of::Tcp]);
            let found = way(&a, "ucx");
            assert!(matches!(found.copying, Copying::Socket | Copying::Emulated), "{found}");
            assert_eq!(moved(&a, &b, &peer, 1), ["tcp"], "{found}");
            assert!(lane(&a, "ucx").demoted && !lane(&a, "tcp").demoted);
            assert_eq!(lane(&a, "tcp").fallbacks, 2, "loud, for something else was to carry it");
        },
    );
}

#[test]
fn ucx_that_is_wanted_without_copies_and_is_not_so_is_done_without() {
    with_ucx("libraries::ucx_that_is_wanted_without_copies_and_is_not_so_is_done_without", |library| {
        let (a, b, peer) = pair(&[ucx(library, Some("tcp"), Want::ZeroCopy), Of::Tcp]);
        assert_eq!(moved(&a, &b, &peer, 1), ["tcp"]);
        let of_ucx = lane(&a, "ucx");
        assert!(of_ucx.reason.is_some() && of_ucx.bytes == 0, "{of_ucx:?}");
    });
}

#[test]
fn nixl_carries_and_tcp_finishes_what_it_leaves() {
    with_nixl("libraries::nixl_carries_and_tcp_finishes_what_it_leaves", |library| {
        let (a, b, peer) = pair(&[Of::Nixl { library }, Of::Tcp]);
        println!("{}", way(&a, "nixl"));
        assert_eq!(moved(&a, &b, &peer, 1), ["nixl"]);
        a.fabrics[0].plan(Plan { seed: 2, lose_peer: 100, at_most: 1, ..Plan::default() });
        let token = b.grant(Access::Write);
        a.fill(9);
        let transfer =
            a.agent.write(&peer, token, segments(a.region, b.region, LEN, 1024), soon().verified());
        eventually("the loss", || a.fabrics[0].counts().lost_peers == 1);
        let report = end(transfer).unwrap();
        assert!(b.bytes(0, LEN) == pattern(LEN, 9), "every byte");
        assert!(report.fell_back && report.lanes.iter().any(|of| &*of.lane == "tcp"), "{report:?}");
    });
}
