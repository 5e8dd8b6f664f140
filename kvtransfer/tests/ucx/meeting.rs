//! Peers of one process: bytes move, and lives are told apart.

use kvferry_transfer::fabric::ucx::UcxFabric;
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::{Access, Epoch, Error, Place, Segment};

use crate::support::{BYTES, TOKEN, lease, met, options, region, until, with_each};

#[test]
fn every_ucx_moves_bytes_both_ways_busy_or_asleep() {
    with_each("meeting::every_ucx_moves_bytes_both_ways_busy_or_asleep", |library| {
        for busy_poll in [false, true] {
            let open = |name| {
                let mut options = options(name, library.clone());
                options.busy_poll = busy_poll;
                UcxFabric::open(options).unwrap()
            };
            let (a, b) = (open("a"), open("b"));
            let peer = met(&a, &b);
            let (here, there) = (region(), region());
            let (local, remote) = (a.register(here.clone()).unwrap(), b.register(there.clone()).unwrap());
            assert!(here.write_at(1, b"written") && there.write_at(BYTES - 4, b"read"));
            for (direction, access, from, to, len) in [
                (Direction::Write, Access::Write, 1, 5, 7),
                (Direction::Read, Access::Read, 99, BYTES - 4, 4),
            ] {
                b.grant(lease(remote, access)).unwrap();
                let place = |region, offset| Place { region, offset };
                let segments = [Segment { local: place(local, from), remote: place(remote, to), len }];
                let transfer = a
                    .submit(Request {
                        peer,
                        direction,
                        token: TOKEN,
                        segments: segments.into(),
                        notify: None,
                        deadline: None,
                        checksum: false,
                    })
                    .unwrap();
                until(&a, |event| match event {
                    Event::Done(id) if id == transfer => Some(()),
                    Event::Failed(_, error) => panic!("{error}"),
                    _ => None,
                });
                b.revoke(TOKEN);
                until(&b, |event| (event == Event::Freed(TOKEN)).then_some(()));
            }
            let (mut written, mut read) = ([0; 7], [0; 4]);
            assert!(there.read_at(5, &mut written) && here.read_at(99, &mut read));
            assert_eq!((&written, &read), (b"written", b"read"));
        }
    });
}

#[test]
fn whoever_wants_to_meet_an_earlier_life_is_told_of_this_one() {
    with_each("meeting::whoever_wants_to_meet_an_earlier_life_is_told_of_this_one", |library| {
        let a = UcxFabric::open(options("a", library.clone())).unwrap();
        let b = UcxFabric::open(options("b", library)).unwrap();
        let mut metadata = b.metadata().unwrap().to_vec();
        // As an earlier life at the same address would have had it: after what it is (4 bytes), of which version (2) and of
        // which fabric (2 and 3), and with the sum (4) of the rest at the end.
        metadata[11] -= 1;
        let end = metadata.len() - 4;
        let sum = crc32fast::hash(&metadata[..end]);
        metadata[end..].copy_from_slice(&sum.to_le_bytes());
        let stale = a.connect(&metadata).unwrap();
        let why = until(&a, |event| match event {
            Event::Lost(peer, error) if peer == stale => Some(error),
            _ => None,
        });
        assert_eq!(why, Error::StaleEpoch(Epoch(4), Epoch(5)));
        // This life can be met.
        met(&a, &b);
    });
}
