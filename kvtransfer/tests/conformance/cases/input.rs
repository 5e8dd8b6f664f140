//! What cannot be is refused, with its reason.

use crate::backend::Backend;
use crate::command::{Answer, Ask, Command, Seen};
use crate::pattern::Blocks;
use crate::side::{Pair, Side};

pub fn metadata_cut_anywhere_is_refused(backend: &'static Backend, _seed: u64) {
    let (mut a, b) = (Side::new(backend, "a", 1), Side::new(backend, "b", 2));
    for len in 0..b.metadata.len() {
        let metadata = b.metadata[..len].to_vec();
        assert_eq!(a.refused(Command::Connect { metadata }), "bad_metadata", "{len} bytes");
    }
    let more = [b.metadata.as_slice(), &[0]].concat();
    assert_eq!(a.refused(Command::Connect { metadata: more }), "bad_metadata");
    let peer = a.connect(&b.metadata);
    a.connected(peer);
}

pub fn foreign_metadata_and_other_versions_are_refused(backend: &'static Backend, _seed: u64) {
    let (mut a, b) = (Side::new(backend, "a", 1), Side::new(backend, "b", 2));
    for metadata in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; b.metadata.len()]] {
        assert_eq!(
            a.refused(Command::Connect { metadata: metadata.clone() }),
            "bad_metadata",
            "{metadata:?}"
        );
    }
    let mut other = b.metadata.clone();
    other[backend.version_at] ^= 0x40;
    assert_eq!(a.refused(Command::Connect { metadata: other }), "protocol_version");
}

pub fn ranges_that_cannot_be_are_refused_at_once(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let (here, there) = (pair.a.filled(8192, 11), pair.b.filled(8192, 22));
    pair.b.grant(1, false, there, 0, 8192);
    pair.b.grant(2, true, there, 0, 8192);
    let (before_here, before_there) = (pair.a.fingerprint(here, 0, 8192), pair.b.fingerprint(there, 0, 8192));
    let one = Blocks::one(0, 4096);
    let twice = |ask: Ask, second: Blocks| Ask { blocks: vec![one, second], ..ask };
    let (read, write) = (pair.ask(false, 1, here, there, one), pair.ask(true, 2, here, there, one));
    let far = Blocks { here: u64::MAX - 10, ..one };
    for (ask, code) in [
        (Ask { blocks: vec![Blocks { here: 4097, ..one }], ..read.clone() }, "out_of_region"),
        (Ask { blocks: vec![Blocks { here: 4097, ..one }], ..write.clone() }, "out_of_region"),
        (Ask { blocks: vec![far], ..read.clone() }, "out_of_region"),
        (Ask { local: 77, ..read.clone() }, "unknown_region"),
        (Ask { local: 77, ..write.clone() }, "unknown_region"),
        (twice(read.clone(), Blocks { here: 4095, ..one }), "overlap"),
        (twice(write.clone(), Blocks { there: 4095, ..one }), "overlap"),
        (Ask { notify: Some(vec![0; (64 << 10) + 1]), ..write.clone() }, "full"),
    ] {
        assert_eq!(pair.a.refused(Command::Submit(ask.clone())), code, "{ask:?}");
    }
    assert_eq!(pair.a.fingerprint(here, 0, 8192), before_here);
    assert_eq!(pair.b.fingerprint(there, 0, 8192), before_there);
    // The same source twice is no overlap: nothing is written twice.
    let twice = twice(write, Blocks { there: 4096, ..one });
    let transfer = pair.a.submit(twice);
    assert_eq!(pair.a.end_of(transfer), Ok(()));
    pair.b.verify(there, Blocks { there: 4096, ..one }, true, 11);
}

pub fn unknown_peers_and_too_long_messages_are_refused(backend: &'static Backend, _seed: u64) {
    let mut pair = Pair::new(backend);
    let here = pair.a.region(4096);
    let ask = Ask { peer: 77, ..pair.ask(true, 1, here, 0, Blocks::one(0, 1)) };
    assert_eq!(pair.a.refused(Command::Submit(ask)), "unknown_peer");
    assert_eq!(pair.a.refused(Command::Notify { peer: 77, message: vec![] }), "unknown_peer");
    let peer = pair.a_to_b;
    assert_eq!(pair.a.refused(Command::Notify { peer, message: vec![0; (64 << 10) + 1] }), "full");
    assert_eq!(pair.a.ask(Command::Lane { peer: 77 }), Answer::Text(None));
    assert_eq!(pair.a.refused(Command::Deregister { region: 77 }), "unknown_region");
    for command in
        [Command::Disconnect { peer: 77 }, Command::Cancel { transfer: 77 }, Command::Revoke { token: 77 }]
    {
        pair.a.must(command);
    }
    // The longest messages come, each whole and in order.
    let longest = |number| vec![number; 64 << 10];
    for number in 0..100 {
        while pair.a.ask(Command::Notify { peer, message: longest(number) }) == Answer::Error("full".into()) {
            pair.b.poll(10);
        }
    }
    pair.b.see(&Seen::Notified(pair.b_to_a, longest(99)));
    let firsts = pair.b.log.iter().filter_map(|seen| match seen {
        Seen::Notified(_, message) if message.len() == 64 << 10 => Some(message[0]),
        _ => None,
    });
    assert_eq!(firsts.collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
}
