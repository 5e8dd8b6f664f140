//! Prepared blocks: transfers of them arrive as any other, and so do those that are none. And what NIXL measured of both.

use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric};
use kvferry_transfer::{Access, RegionId, Segment};

use crate::support::{
    TOKEN, bytes, done, filled, lease, met, options, pattern, request, seen, segment, with_each,
};

const BLOCK: u64 = 16 << 10;
const BLOCKS: u64 = 1500;
const LEN: u64 = BLOCK * BLOCKS + 1000;

/// Every block of one side to another place at the other, so that few are neighbours.
fn shuffled(local: RegionId, remote: RegionId) -> Vec<Segment> {
    let place = |number: u64, factor: u64| number * factor % BLOCKS * BLOCK;
    (0..BLOCKS).map(|number| segment((local, place(number, 7)), (remote, place(number, 11)), BLOCK)).collect()
}

fn arrived(segments: &[Segment], to: &[u8], from: &[u8], direction: Direction) {
    for segment in segments {
        let at = |offset: u64| usize::try_from(offset).unwrap();
        let (here, there) = (at(segment.local.offset), at(segment.remote.offset));
        let len = at(segment.len);
        let (to_at, from_at) = match direction {
            Direction::Read => (here, there),
            Direction::Write => (there, here),
        };
        assert!(to[to_at..to_at + len] == from[from_at..from_at + len], "{segment:?}");
    }
}

#[test]
fn blocks_that_are_prepared_and_ranges_that_are_not_all_arrive() {
    with_each("blocks::blocks_that_are_prepared_and_ranges_that_are_not_all_arrive", |library| {
        let open =
            |name| NixlFabric::open(NixlOptions { telemetry: true, ..options(name, library) }).unwrap();
        let (a, b) = (open("a"), open("b"));
        let peer = met(&a, &b);
        let (here, there) = (filled(LEN, 1), filled(LEN, 2));
        let (local, remote) = (a.register(here.clone()).unwrap(), b.register(there.clone()).unwrap());
        a.blocks(local, BLOCK).unwrap();
        let blocks = shuffled(local, remote);
        // One block that begins a byte late is enough for none to be taken by its number.
        let mut ranges = blocks.clone();
        let last = ranges.last_mut().unwrap();
        (last.local.offset, last.remote.offset) = (BLOCKS * BLOCK + 3, BLOCKS * BLOCK + 7);
        last.len = 900;
        for segments in [&blocks, &ranges] {
            for (direction, access) in [(Direction::Read, Access::Read), (Direction::Write, Access::Write)] {
                assert!(here.write_at(0, &pattern(LEN, 1)) && there.write_at(0, &pattern(LEN, 2)));
                b.grant(lease(remote, access, LEN)).unwrap();
                let before = a.telemetry().unwrap();
                done(&a, a.submit(request(peer, direction, segments)).unwrap());
                let after = a.telemetry().unwrap();
                let moved: u64 = segments.iter().map(|segment| segment.len).sum();
                assert_eq!(after.bytes - before.bytes, moved);
                assert!(
                    after.requests > before.requests
                        && after.moves > before.moves
                        && after.moving > before.moving
                );
                b.revoke(TOKEN);
                seen(&b, |event| (event == Event::Freed(TOKEN)).then_some(()));
                let (to, from) = match direction {
                    Direction::Read => (&here, &there),
                    Direction::Write => (&there, &here),
                };
                arrived(segments, &bytes(to, 0, LEN), &bytes(from, 0, LEN), direction);
            }
        }
        a.deregister(local).unwrap();
        b.deregister(remote).unwrap();
        assert_eq!(a.blocks(local, BLOCK).unwrap_err().code(), "unknown_region");
    });
}

#[test]
fn nothing_is_measured_unless_asked_for() {
    with_each("blocks::nothing_is_measured_unless_asked_for", |library| {
        let fabric = NixlFabric::open(options("a", library)).unwrap();
        assert_eq!(fabric.telemetry(), None);
    });
}
