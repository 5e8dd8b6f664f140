//! Bytes get where they belong, all of them and no others.

use bytes::Bytes;
use kvferry_transfer::fabric::{Event, Fabric};
use kvferry_transfer::{Access, Segment};

use crate::support::{Relay, Side, TOKEN, Way, read, segment, write};

/// Blocks of odd sizes that lie apart, and in another order on the other side; enough for several chunks.
fn scattered() -> (Vec<Segment>, u64) {
    let sizes: Vec<u64> = (0..3000_u64).map(|i| 1 + i * 37 % 3000).collect();
    let mut local = 0;
    let mut segments: Vec<Segment> = Vec::new();
    for len in &sizes {
        segments.push(segment(local, 0, *len));
        local += len + 5;
    }
    let mut remote = 0;
    for at in (0..segments.len()).rev() {
        segments[at].remote.offset = remote;
        remote += segments[at].len + 3;
    }
    (segments, local.max(remote) + 8)
}

fn check(from: &Side, to: &Side, pairs: impl Iterator<Item = (u64, u64, u64)>, before: &[u8]) {
    let mut expected = before.to_vec();
    for (source, target, len) in pairs {
        let (target, len) = (usize::try_from(target).unwrap(), len);
        expected[target..target + usize::try_from(len).unwrap()].copy_from_slice(&from.bytes(source, len));
    }
    assert!(to.bytes(0, before.len() as u64) == expected, "some byte is wrong, or was not to be touched");
}

#[test]
fn scattered_segments_are_read_and_written_and_nothing_between_them_is_touched() {
    let (segments, len) = scattered();
    let len = len.next_multiple_of(8);
    for checksum in [false, true] {
        let (mut initiator, owner, peer) = Side::pair(len, Access::Read);
        initiator.fill(1);
        owner.fill(2);
        let before = initiator.bytes(0, len);
        let request = kvferry_transfer::fabric::Request { checksum, ..read(peer, &segments) };
        initiator.run(request).unwrap();
        check(&owner, &initiator, segments.iter().map(|s| (s.remote.offset, s.local.offset, s.len)), &before);

        let (mut initiator, owner, peer) = Side::pair(len, Access::Write);
        initiator.fill(1);
        owner.fill(2);
        let before = owner.bytes(0, len);
        let request = kvferry_transfer::fabric::Request { checksum, ..write(peer, &segments) };
        initiator.run(request).unwrap();
        check(&initiator, &owner, segments.iter().map(|s| (s.local.offset, s.remote.offset, s.len)), &before);
    }
}

#[test]
fn nothing_one_byte_and_a_quarter_of_a_gigabyte_are_moved() {
    let len = 256 << 20;
    let (mut initiator, owner, peer) = Side::pair(len, Access::Read);
    owner.fill(3);
    assert_eq!(initiator.run(read(peer, &[])), Ok(()));
    assert_eq!(initiator.run(read(peer, &[segment(9, 9, 0)])), Ok(()));
    assert!(initiator.bytes(0, 4096).iter().all(|byte| *byte == 0));
    assert_eq!(initiator.run(read(peer, &[segment(1, 8, 1)])), Ok(()));
    assert_eq!(initiator.bytes(0, 3), [0, owner.bytes(8, 1)[0], 0]);
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, len)])), Ok(()));
    assert!(initiator.bytes(0, len) == owner.bytes(0, len));
}

#[test]
fn several_threads_rails_and_streams_move_the_same_bytes() {
    let len = 32 << 20;
    let options = |name| kvferry_transfer::fabric::tcp::TcpOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()],
        streams: 2,
        threads: 3,
        ..Side::options(name)
    };
    let (mut initiator, owner) = (Side::open(options("initiator"), len), Side::open(options("owner"), len));
    owner.grant(TOKEN, Access::Read, &[(0, len)]);
    owner.fill(4);
    let peer = initiator.meet(&owner);
    let segments: Vec<_> = (0..len >> 13).map(|i| segment(i << 13, i << 13, 4096)).collect();
    let transfers: Vec<_> =
        segments.chunks(100).map(|part| initiator.fabric.submit(read(peer, part)).unwrap()).collect();
    for transfer in transfers {
        assert_eq!(initiator.outcome(transfer), Ok(()));
    }
    assert!(
        segments.iter().all(|s| initiator.bytes(s.local.offset, s.len) == owner.bytes(s.local.offset, s.len))
    );
}

#[test]
fn both_sides_write_to_each_other_at_once_with_full_buffers() {
    let len = 64 << 20;
    let (mut one, mut other, there) = Side::pair(len, Access::Write);
    one.grant(TOKEN, Access::Write, &[(0, len)]);
    let back = other.meet(&one);
    one.fill(5);
    other.fill(6);
    let half = len / 2;
    let (first, second) = (one.bytes(0, half), other.bytes(0, half));
    let out = one.fabric.submit(write(there, &[segment(0, half, half)])).unwrap();
    let home = other.fabric.submit(write(back, &[segment(0, half, half)])).unwrap();
    assert_eq!((one.outcome(out), other.outcome(home)), (Ok(()), Ok(())));
    assert!(other.bytes(half, half) == first && one.bytes(half, half) == second);
}

#[test]
fn reads_and_writes_over_one_connection_do_not_wait_for_each_other_for_ever() {
    let len = 64 << 20;
    let (mut initiator, owner, peer) = Side::pair(len, Access::Read);
    let other = kvferry_transfer::Token([8; 16]);
    owner.grant(other, Access::Write, &[(0, len)]);
    let half = len / 2;
    let ids: Vec<_> = (0..8)
        .flat_map(|i| {
            let (at, part) = (i * half / 8, half / 8);
            let put =
                kvferry_transfer::fabric::Request { token: other, ..write(peer, &[segment(at, at, part)]) };
            [read(peer, &[segment(half + at, half + at, part)]), put]
        })
        .map(|request| initiator.fabric.submit(request).unwrap())
        .collect();
    for id in ids {
        assert_eq!(initiator.outcome(id), Ok(()));
    }
}

#[test]
fn a_peer_that_reads_slowly_gets_everything() {
    let len = 8 << 20;
    let relay = Relay::new();
    let options = kvferry_transfer::fabric::tcp::TcpOptions {
        advertise: vec![relay.address],
        ..Side::options("owner")
    };
    let (mut initiator, owner) = (Side::new("initiator", len), Side::open(options, len));
    relay.leads_to(owner.fabric.listening()[0]);
    owner.grant(TOKEN, Access::Read, &[(0, len)]);
    owner.fill(7);
    let peer = initiator.meet(&owner);
    relay.slow(Way::ToInitiator);
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, len)])), Ok(()));
    assert!(initiator.bytes(0, len) == owner.bytes(0, len));
}

#[test]
fn a_short_transfer_beside_a_long_one_is_done_long_before_it() {
    let len = 256 << 20;
    let (mut initiator, _owner, peer) = Side::pair(len, Access::Read);
    let long = initiator.fabric.submit(read(peer, &[segment(0, 0, len - (4 << 20))])).unwrap();
    let short = initiator.fabric.submit(read(peer, &[segment(len - (4 << 20), 0, 4 << 20)])).unwrap();
    let events = initiator.until(|event| *event == Event::Done(short));
    assert!(!events.contains(&Event::Done(long)), "{events:?}");
    assert_eq!(initiator.outcome(long), Ok(()));
}

#[test]
fn a_transfers_message_comes_once_and_after_its_bytes_whether_it_has_one_chunk_or_many() {
    let len = 16 << 20;
    for bytes in [0, 4096, len] {
        let (mut initiator, mut owner, peer) = Side::pair(len, Access::Write);
        initiator.fill(bytes);
        for message in [&b"it is all there"[..], b""] {
            let mut request = write(peer, &[segment(0, 0, bytes)]);
            request.notify = Some(Bytes::from_static(message));
            let id = initiator.fabric.submit(request).unwrap();
            assert_eq!(owner.message(), message);
            assert!(owner.bytes(0, bytes) == initiator.bytes(0, bytes), "the message came before the bytes");
            assert_eq!(initiator.outcome(id), Ok(()));
        }
        assert_eq!(owner.others(), []);
    }
}

#[test]
fn a_message_of_its_own_comes_after_what_was_written_before() {
    let len = 16 << 20;
    let (mut initiator, mut owner, peer) = Side::pair(len, Access::Write);
    for round in 0..20 {
        initiator.fill(round);
        initiator.run(write(peer, &[segment(0, 0, len)])).unwrap();
        initiator.fabric.notify(peer, round.to_le_bytes().to_vec().into()).unwrap();
        assert_eq!(owner.message(), &round.to_le_bytes()[..]);
        let at = round * 4096;
        assert_eq!(owner.bytes(at, 4096), initiator.bytes(at, 4096));
    }
}

#[test]
fn messages_that_nobody_polls_fill_up_and_go_on_once_they_are_polled() {
    let (initiator, mut owner, peer) = Side::pair(4096, Access::Write);
    let long = Bytes::from(vec![1; 64 << 10]);
    let mut sent = 0;
    while initiator.fabric.notify(peer, long.clone()).is_ok() {
        sent += 1;
        assert!(sent <= 256, "16 MiB of messages may wait");
    }
    let error = initiator.fabric.notify(peer, long.clone()).unwrap_err();
    assert_eq!(error.code(), "full");
    for _ in 0..sent {
        assert_eq!(owner.message(), long);
    }
    while initiator.fabric.notify(peer, Bytes::from_static(b"again")).is_err() {
        std::thread::yield_now();
    }
    assert_eq!(owner.message(), &b"again"[..]);
    let too_long = Bytes::from(vec![1; (64 << 10) + 1]);
    assert_eq!(initiator.fabric.notify(peer, too_long).unwrap_err().code(), "full");
}

#[test]
fn many_small_transfers_at_once_all_end_once() {
    let len = 4 << 20;
    let (mut initiator, owner, peer) = Side::pair(len, Access::Read);
    owner.fill(9);
    let count = len / 4096;
    let ids: Vec<_> = (0..count)
        .map(|i| initiator.fabric.submit(read(peer, &[segment(i * 4096, i * 4096, 4096)])).unwrap())
        .collect();
    let mut done = Vec::new();
    while done.len() < ids.len() {
        let events = initiator.until(|event| matches!(event, Event::Done(_)));
        done.extend(events);
    }
    let mut expected: Vec<_> = ids.into_iter().map(Event::Done).collect();
    let by_id = |event: &Event| match event {
        Event::Done(id) => *id,
        other => panic!("{other:?}"),
    };
    done.sort_by_key(by_id);
    expected.sort_by_key(by_id);
    assert_eq!(done, expected);
    assert!(initiator.bytes(0, len) == owner.bytes(0, len));
}
