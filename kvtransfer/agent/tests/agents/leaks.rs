//! What is left of peers that have come and gone: nothing.

use std::path::PathBuf;
use std::time::Duration;

use kvferry_agent::Event;
use kvferry_ffi_testing::{Copy, each_in_its_own_process};
use kvferry_transfer::Access;

use crate::support::{MIB, Of, Side, end, eventually, segments, soon, wait};

/// Meetings of a usual run: some seconds. `KVFERRY_MEETINGS=10000` makes more.
const MEETINGS: u64 = 300;

/// Bytes that each meeting may leave behind, by what the system counts: less than any map's entry with a name and a hello.
const LEFT: u64 = 1 << 10;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory of this process alone, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn after_hundreds_of_peers_there_are_no_more_descriptors_nor_memory_than_before() {
    let this = "leaks::after_hundreds_of_peers_there_are_no_more_descriptors_nor_memory_than_before";
    // Of its own, so that what is counted is this test's.
    each_in_its_own_process(this, &[Copy::file(PathBuf::from("alone"))], |_| {
        let meetings = std::env::var("KVFERRY_MEETINGS").map_or(MEETINGS, |text| text.parse().unwrap());
        let mut a = Side::new("a", &[Of::Shm, Of::Tcp], MIB);
        let mut before = None;
        for round in 0..meetings + 50 {
            // Every other one is another agent; the rest are lives of one. One in three is gone without a goodbye in time.
            let name = if round % 2 == 0 { format!("b{round}") } else { "b".into() };
            let b = Side::with(&name, round, &[Of::Shm, Of::Tcp], MIB, |options| options);
            let peer = a.meet(&b);
            let token = b.grant(Access::Write);
            let all = segments(a.region, b.region, MIB, 16);
            let done = a.agent.write(&peer, token, all.clone(), soon().verified().notifying("here"));
            if round % 3 == 0 {
                drop(a.agent.write(&peer, token, all, soon().verified()));
                drop(b);
                // However that went.
                let _ = wait(done);
            } else {
                end(done).unwrap();
                a.agent.disconnect(&peer);
            }
            a.until(|event| matches!(event, Event::Lost(..)).then_some(()));
            // What is first made on demand, and what grows to its usual size.
            if round == 49 {
                std::thread::sleep(Duration::from_millis(1500));
                before = Some((descriptors(), memory()));
            }
        }
        let (fds, bytes) = before.unwrap();
        // The last words of the last ones.
        eventually("as few descriptors as before", || descriptors() <= fds);
        let now = memory();
        println!("{meetings} meetings: {fds} descriptors, {} KiB more", now.saturating_sub(bytes) >> 10);
        // Allocators keep some; a megabyte says nothing.
        assert!(now <= bytes + MIB + meetings * LEFT, "{} bytes more", now - bytes);
        let snapshot = wait(a.agent.snapshot()).unwrap();
        assert!(snapshot.peers.is_empty() && snapshot.unheard == 0, "{snapshot:?}");
        assert_eq!((snapshot.transfers, snapshot.chunks, snapshot.past.len()), (0, 0, 2));
        assert!(snapshot.past.iter().any(|lane| lane.bytes >= meetings / 2 * MIB), "{:?}", snapshot.past);
        a.agent.deregister(a.region).unwrap();
    });
}
