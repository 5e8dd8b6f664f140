//! Who waits for whom: counted in bytes that were begun, not in time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use kvferry_agent::core::{ChunkNo, Command, Core, LaneNo, LaneSpec, Pace, PeerNo, Time, TransferNo, Work};
use kvferry_agent::limits::{CHUNK_BYTES, LANE_BYTES};
use kvferry_transfer::fabric::{Copying, Direction};
use kvferry_transfer::{AgentName, Epoch, Place, RegionId, Segment};

use crate::way;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn core(lanes: u8) -> (Core, PeerNo) {
    let mut core = Core::new(Pace::default());
    let specs = (0..lanes)
        .map(|index| LaneSpec { label: format!("tcp#{index}").into(), tier: 1, copied_tier: 1 })
        .collect();
    let peer = core.met(Time::ZERO, AgentName::new("p").unwrap(), Epoch(1), specs).unwrap();
    for index in 0..lanes {
        core.lane_up(Time::ZERO, LaneNo { peer, index }, way(Copying::Socket));
    }
    (core, peer)
}

fn begin(core: &mut Core, peer: PeerNo, bytes: u64, priority: u8) -> TransferNo {
    let place = Place { region: RegionId(0), offset: 0 };
    let work = Work {
        segments: Arc::new([Segment { local: place, remote: place, len: bytes }]),
        direction: Direction::Write,
        deadline: Duration::from_secs(3600),
        priority,
        verify: false,
        notify: false,
        lanes: u32::MAX,
    };
    core.begin(Time::ZERO, peer, work).unwrap()
}

/// Lets chunks arrive in the order they were begun, until `until` ends: the bytes that each of `count` transfers was given,
/// and each lane.
fn run(core: &mut Core, until: TransferNo, count: usize) -> (Vec<u64>, Vec<u64>) {
    let (mut given, mut lanes) = (vec![0; count], vec![0; 8]);
    let mut moving: VecDeque<ChunkNo> = VecDeque::new();
    loop {
        while let Some(command) = core.next_command() {
            match command {
                Command::Move { chunk, lane, transfer, piece } => {
                    moving.push_back(chunk);
                    given[usize::try_from(transfer.0).unwrap()] += piece.bytes;
                    lanes[usize::from(lane.index)] += piece.bytes;
                }
                Command::End(no, result) => {
                    result.unwrap();
                    if no == until {
                        return (given, lanes);
                    }
                }
                _ => {}
            }
        }
        core.moved(Time::ZERO, moving.pop_front().unwrap(), Ok(()));
    }
}

#[test]
fn ten_mebibytes_beside_forty_gibibytes_wait_for_a_window_and_no_more() {
    let (mut core, peer) = core(1);
    begin(&mut core, peer, 40 * GIB, 1);
    let small = begin(&mut core, peer, 10 * MIB, 1);
    let (given, _) = run(&mut core, small, 2);
    assert_eq!(given[1], 10 * MIB);
    // What was under way when it came, and what takes turns with its two chunks and follows until the last has arrived.
    assert!(
        given[0] <= 2 * LANE_BYTES + 2 * CHUNK_BYTES,
        "{} MiB of the large one went before",
        given[0] / MIB
    );
}

#[test]
fn equals_get_equal_shares_and_priority_gets_more() {
    let (mut core, peer) = core(1);
    for priority in [1, 1, 1, 4] {
        begin(&mut core, peer, GIB, priority);
    }
    let (given, _) = run(&mut core, TransferNo(3), 4);
    for of in &given[..3] {
        // A quarter, and what went before the other came.
        assert!((20..32).contains(&(of * 100 / given[3])), "{given:?}");
    }
}

#[test]
fn a_thousand_small_ones_all_end_while_a_large_one_is_under_way() {
    let (mut core, peer) = core(1);
    begin(&mut core, peer, 40 * GIB, 1);
    let mut last = TransferNo(0);
    for _ in 0..1000 {
        last = begin(&mut core, peer, 64 << 10, 1);
    }
    let (given, _) = run(&mut core, last, 1001);
    assert!(given[0] <= 3 * LANE_BYTES, "{} MiB of the large one went before", given[0] / MIB);
}

#[test]
fn rails_are_striped_over_evenly() {
    let (mut core, peer) = core(3);
    let only = begin(&mut core, peer, 3 * GIB, 1);
    let (_, lanes) = run(&mut core, only, 1);
    let (least, most) = (lanes[..3].iter().min().unwrap(), lanes[..3].iter().max().unwrap());
    assert!(most - least <= LANE_BYTES, "{lanes:?}");
}
