//! Everything at once, in both directions, at every limit: nothing waits for something that waits for it.

use std::time::Duration;

use kvferry_agent::{Event, Peer};
use kvferry_transfer::{Access, Place, Segment, Token};

use crate::support::{MIB, Of, Side, eventually, soon, wait};

const STORM: u64 = 3000;

fn narrow(name: &str, fabrics: &[Of<'_>]) -> Side {
    Side::with(name, 1, fabrics, 4 * MIB, |mut options| {
        options.pace.chunk_bytes = 1 << 10;
        options.pace.lane_bytes = 8 << 10;
        options.pace.lane_chunks = 4;
        options.pace.chunks = 4;
        options
    })
}

/// Transfers of a few KiB, each with a message of 2 KiB: how many arrived, and how many were refused for want of room.
async fn storm(side: &Side, other: &Side, peer: &Peer, read: Token, write: Token, round: u64) -> (u64, u64) {
    let one = |number: u64| {
        let place = |region, of: u64| Place { region, offset: (number * 2 + of) % 1000 * 4096 };
        let segment = |of| Segment {
            local: place(side.region, of),
            remote: place(other.region, of),
            len: 1 + (number + of) % 1500,
        };
        let options = soon().notifying(vec![7; 2048]).priority(1 + u8::try_from(number % 5).unwrap());
        let options = if number.is_multiple_of(3) { options.verified() } else { options };
        let all = [segment(0), segment(1)];
        if number.is_multiple_of(2) {
            side.agent.read(peer, read, all, options)
        } else {
            side.agent.write(peer, write, all, options)
        }
    };
    let transfers: Vec<_> = (round * STORM..(round + 1) * STORM).map(one).collect();
    let (mut well, mut full) = (0, 0);
    for transfer in transfers {
        match transfer.await {
            Ok(_) => well += 1,
            Err(failure) => {
                assert_eq!(failure.error.code(), "full", "{failure}");
                full += 1;
            }
        }
    }
    (well, full)
}

/// Takes all messages that have come, until there are so many.
async fn taken(side: &mut Side, count: u64) {
    let mut left = count;
    while left > 0 {
        if let Event::Notified(..) = side.events.next().await.expect("the agent is open") {
            left -= 1;
        }
    }
}

#[test]
fn two_opposite_storms_at_every_limit_end_and_what_was_full_has_room_again() {
    for fabrics in [&[Of::Shm][..], &[Of::Tcp][..]] {
        let (mut a, mut b) = (narrow("a", fabrics), narrow("b", fabrics));
        let (to_b, to_a) = (a.meet(&b), b.meet(&a));
        let tokens = |side: &Side| (side.grant(Access::Read), side.grant(Access::Write));
        let ((read_a, write_a), (read_b, write_b)) = (tokens(&a), tokens(&b));
        for round in 0..2 {
            // Nobody takes any message before the storm is over.
            let (of_a, of_b) = wait(async {
                tokio::join!(
                    storm(&a, &b, &to_b, read_b, write_b, round),
                    storm(&b, &a, &to_a, read_a, write_a, round)
                )
            });
            for (well, full) in [of_a, of_b] {
                assert_eq!(well + full, STORM);
                // The second time, it depends on when the news that there is room again has come.
                assert!(full > 0 && (round > 0 || well > 1000), "{well} arrived, {full} had no room");
            }
            wait(taken(&mut b, of_a.0));
            wait(taken(&mut a, of_b.0));
        }
        // All but the quarter that may be taken and not told of; and once more, for they were taken.
        for _ in 0..2 {
            for _ in 0..40 {
                eventually("room", || a.agent.notify(&to_b, vec![1; 64 << 10].into()).is_ok());
            }
            wait(taken(&mut b, 40));
        }
        for side in [&mut a, &mut b] {
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(side.events.try_next(), None, "each message came once");
        }
    }
}
