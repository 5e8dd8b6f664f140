//! What deciding costs: figures to read, and counts to hold. Time proves nothing on a shared machine, so what is asserted is
//! that everything ends; `cargo test --release -p kvferry-agent --test simulator -- --nocapture speed` shows the figures.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_agent::core::{ChunkNo, Command, Core, LaneNo, LaneSpec, Pace, PeerNo, Time, Work};
use kvferry_transfer::fabric::{Copying, Direction};
use kvferry_transfer::{AgentName, Epoch, Place, RegionId, Segment};

use crate::way;

/// Peers with the lanes that are usual on one host: shm is up, and tcp was never needed.
fn core(peers: u64) -> (Core, Vec<PeerNo>) {
    let mut core = Core::new(Pace::default());
    let met = (0..peers).map(|number| {
        let spec = |label: &str, tier| LaneSpec { label: label.into(), tier, copied_tier: tier };
        let name = AgentName::new(&format!("p{number}")).unwrap();
        let peer = core.met(Time::ZERO, name, Epoch(1), vec![spec("shm", 0), spec("tcp", 2)]).unwrap();
        core.lane_up(Time::ZERO, LaneNo { peer, index: 0 }, way(Copying::ZeroCopy));
        peer
    });
    let met = met.collect();
    (core, met)
}

/// So many transfers of 16 chunks with each peer, all begun at once: the time for each chunk.
fn per_chunk(peers: u64, transfers: usize) -> Duration {
    let (mut core, met) = core(peers);
    let place = |index: u64| Place { region: RegionId(0), offset: index * (8 << 20) };
    let segments: Arc<[Segment]> = (0..16)
        .map(|index| Segment { local: place(index), remote: place(index), len: Pace::default().chunk_bytes })
        .collect();
    let start = Instant::now();
    for peer in met.iter().cycle().take(transfers) {
        let work = Work {
            segments: Arc::clone(&segments),
            direction: Direction::Read,
            deadline: Duration::from_secs(3600),
            priority: 1,
            verify: false,
            notify: false,
            lanes: 3,
        };
        core.begin(Time::ZERO, *peer, work).unwrap();
    }
    let (mut moving, mut chunks, mut ended) = (VecDeque::<ChunkNo>::new(), 0_u32, 0);
    while ended < transfers {
        while let Some(command) = core.next_command() {
            match command {
                Command::Move { chunk, .. } => moving.push_back(chunk),
                Command::End(_, result) => {
                    result.unwrap();
                    ended += 1;
                }
                _ => {}
            }
        }
        if let Some(chunk) = moving.pop_front() {
            core.moved(Time::ZERO, chunk, Ok(()));
            chunks += 1;
        }
    }
    assert_eq!((core.outstanding(), usize::try_from(chunks).unwrap()), ((0, 0), transfers * 16));
    start.elapsed() / chunks
}

#[test]
fn what_waits_costs_nothing() {
    for (peers, transfers) in [(1, 1), (1, 100), (1, 1000), (16, 1000), (1, 10_000)] {
        println!("{peers} peers, {transfers} transfers: {:?} a chunk", per_chunk(peers, transfers));
    }
}

#[test]
fn figures_of_4096_peers_are_at_hand() {
    let (core, met) = core(4096);
    let start = Instant::now();
    let views = core.views(Duration::from_secs(1));
    println!("views of {} peers: {:?}", views.len(), start.elapsed());
    assert_eq!(
        (views.len(), views.iter().map(|view| view.3.len()).sum::<usize>()),
        (met.len(), 2 * met.len())
    );
}
