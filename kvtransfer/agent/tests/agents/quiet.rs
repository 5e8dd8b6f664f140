//! An agent with nothing to do sleeps.

use std::time::Duration;

use kvferry_transfer::Access;

use crate::support::{MIB, Of, end, pair, segments, soon, wait};

#[test]
fn an_idle_agent_wakes_up_to_say_that_it_is_there_and_for_nothing_else() {
    let (a, b, peer) = pair(&[Of::Shm, Of::Tcp], MIB);
    let token = b.grant(Access::Read);
    end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 16), soon().verified())).unwrap();
    let wakeups = || [&a, &b].map(|side| wait(side.agent.snapshot()).unwrap().wakeups);
    // What comes late of the meeting.
    std::thread::sleep(Duration::from_millis(300));
    let before = wakeups();
    std::thread::sleep(Duration::from_secs(2));
    let after = wakeups();
    // Each look is one; a ping of its own and one of the peer's may fall into that time (they come every 3.75 s).
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before <= 4, "it woke up {} times", after - before);
    }
}
