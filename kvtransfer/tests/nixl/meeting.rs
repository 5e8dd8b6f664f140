//! Peers of one process: bytes move, lives are told apart, and what is not NIXL's own is refused.

use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::tcp::Secret;
use kvferry_transfer::fabric::{Direction, Event, Fabric};
use kvferry_transfer::{Access, Epoch, Error};

use crate::support::{
    BYTES, TOKEN, bytes, done, filled, lease, met, open, options, pattern, request, seen, segment, with_each,
};

#[test]
fn every_nixl_moves_bytes_both_ways_with_a_thread_of_its_own_or_without() {
    with_each("meeting::every_nixl_moves_bytes_both_ways_with_a_thread_of_its_own_or_without", |library| {
        for progress_thread in [true, false] {
            let open =
                |name| NixlFabric::open(NixlOptions { progress_thread, ..options(name, library) }).unwrap();
            let (a, b) = (open("a"), open("b"));
            let peer = met(&a, &b);
            let (here, there) = (filled(BYTES, 1), filled(BYTES, 2));
            let (local, remote) = (a.register(here.clone()).unwrap(), b.register(there.clone()).unwrap());
            for (direction, access, from, to) in
                [(Direction::Write, Access::Write, 8, 80), (Direction::Read, Access::Read, 800, BYTES - 400)]
            {
                b.grant(lease(remote, access, BYTES)).unwrap();
                done(
                    &a,
                    a.submit(request(peer, direction, &[segment((local, from), (remote, to), 400)])).unwrap(),
                );
                b.revoke(TOKEN);
                seen(&b, |event| (event == Event::Freed(TOKEN)).then_some(()));
            }
            assert_eq!(bytes(&there, 80, 400), &pattern(BYTES, 1)[8..408]);
            assert_eq!(bytes(&here, 800, 400), &pattern(BYTES, 2)[pattern(BYTES, 2).len() - 400..]);
        }
    });
}

#[test]
fn whoever_wants_to_meet_an_earlier_life_is_told_of_this_one() {
    with_each("meeting::whoever_wants_to_meet_an_earlier_life_is_told_of_this_one", |library| {
        let (a, b) = (open("a", library), open("b", library));
        // As an earlier life at the same address would have had it: the epoch stands in the metadata of the fabric and in
        // that of its control connection.
        let mut metadata = b.metadata().unwrap().to_vec();
        let epoch = 5_u64.to_le_bytes();
        for at in 0..metadata.len() - 8 {
            if metadata[at..at + 8] == epoch {
                metadata[at] -= 1;
            }
        }
        let stale = a.connect(&metadata).unwrap();
        let why = seen(&a, |event| match event {
            Event::Lost(peer, error) if peer == stale => Some(error),
            _ => None,
        });
        assert_eq!(why, Error::StaleEpoch(Epoch(4), Epoch(5)));
        // This life can be met.
        met(&a, &b);
    });
}

#[test]
fn metadata_of_another_plugin_and_its_own_is_refused() {
    with_each("meeting::metadata_of_another_plugin_and_its_own_is_refused", |library| {
        let a = open("a", library);
        assert_eq!(a.connect(&a.metadata().unwrap()).unwrap_err().code(), "bad_metadata");
        let mut metadata = open("b", library).metadata().unwrap().to_vec();
        let at = metadata.windows(3).position(|name| name == b"UCX").unwrap();
        metadata[at..at + 3].copy_from_slice(b"GDS");
        let error = a.connect(&metadata).unwrap_err();
        assert!(matches!(error, Error::Metadata(why) if why.contains("plugin")), "{error}");
    });
}

#[test]
fn whoever_lacks_the_secret_is_not_met() {
    with_each("meeting::whoever_lacks_the_secret_is_not_met", |library| {
        let with = |name, secret: &[u8]| {
            let mut options = options(name, library);
            options.control.secret = Some(Secret::new(secret));
            NixlFabric::open(options).unwrap()
        };
        let (a, b, stranger) = (with("a", b"hush"), with("b", b"hush"), with("c", b"louder"));
        let peer = stranger.connect(&b.metadata().unwrap()).unwrap();
        let why = seen(&stranger, |event| match event {
            Event::Lost(id, error) if id == peer => Some(error),
            Event::Connected(..) => panic!("without the secret"),
            _ => None,
        });
        assert_eq!(why.code(), "unauthenticated", "{why}");
        met(&a, &b);
    });
}
