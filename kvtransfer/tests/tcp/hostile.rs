//! Strangers and liars: what comes over a socket is believed only as far as it has been checked.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use kvferry_transfer::fabric::tcp::TcpOptions;
use kvferry_transfer::fabric::{Fabric, Request};
use kvferry_transfer::{Access, Error, RegionId};

use crate::support::{Relay, Side, TOKEN, Way, read, segment, write};

const LEN: u64 = 4 << 20;

/// Whether the other end closes, without having said anything.
fn is_turned_away(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 64];
    match stream.read(&mut answer) {
        Ok(0) => true,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        Ok(_) => false,
    }
}

fn say(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // It may be closed before all is said.
    let _ = stream.write_all(words);
    stream
}

#[test]
fn garbage_on_the_port_is_turned_away_and_others_are_served() {
    let (mut initiator, owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    owner.grant(TOKEN, Access::Read, &[(0, LEN)]);
    let address = owner.fabric.listening()[0];
    for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0; 4096], &[0xff; 10_000]] {
        assert!(is_turned_away(&mut say(address, garbage)));
    }
    // A hello without an end, one of another length than announced, and a connection that says nothing.
    let _open = [say(address, b"kvferry\n\x02\x00\x20\x00abc"), say(address, b"kvf"), say(address, b"")];
    assert!(is_turned_away(&mut say(address, b"kvferry\n\x02\x00\x03\x00abc")));
    assert!(is_turned_away(&mut say(address, b"kvferry\n\x02\x00\xff\xff")));
    let peer = initiator.meet(&owner);
    assert_eq!(initiator.run(read(peer, &[segment(0, 0, LEN)])), Ok(()));
}

#[test]
fn an_initiator_of_another_version_is_told_ours() {
    let owner = Side::new("owner", LEN);
    let mut stream = say(owner.fabric.listening()[0], b"kvferry\n\x09\x00\x04\x00what");
    let mut answer = [0; 10];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"kvferry\n\x02\x00");
}

#[test]
fn more_strangers_than_may_wait_do_not_keep_out_who_comes_later_for_long() {
    let (mut initiator, owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    let address = owner.fabric.listening()[0];
    let strangers: Vec<_> = (0..600).map(|_| TcpStream::connect(address).unwrap()).collect();
    drop(strangers);
    // The places of those who left are free once that is noticed.
    let metadata = owner.fabric.metadata().unwrap();
    let met = |side: &mut Side| {
        let peer = side.fabric.connect(&metadata).unwrap();
        let outcome = side.fabric.submit(write(peer, &[])).unwrap();
        side.outcome(outcome).unwrap_err().code() == "no_lease"
    };
    while !met(&mut initiator) {
        std::thread::yield_now();
    }
}

#[test]
fn one_turned_bit_is_found_when_asked_for_and_the_connection_goes_on() {
    for (access, way) in [(Access::Read, Way::ToInitiator), (Access::Write, Way::ToOwner)] {
        let relay = Relay::new();
        let options = TcpOptions { advertise: vec![relay.address], ..Side::options("owner") };
        let mut initiator = Side::open(TcpOptions { streams: 1, ..Side::options("initiator") }, LEN);
        let owner = Side::open(options, LEN);
        relay.leads_to(owner.fabric.listening()[0]);
        owner.grant(TOKEN, access, &[(0, LEN)]);
        let peer = initiator.meet(&owner);
        let ask = if access == Access::Read { read } else { write };
        let request = Request { checksum: true, ..ask(peer, &[segment(64, 0, 1 << 20)]) };
        relay.flip(way, 500_000);
        assert_eq!(initiator.run(request.clone()), Err(Error::Corrupt(RegionId(0), 64)), "{access:?}");
        assert_eq!(initiator.run(request), Ok(()));
        assert!(initiator.bytes(64, 1 << 20) == owner.bytes(0, 1 << 20));
    }
}

#[test]
fn turned_bits_anywhere_never_make_a_side_hang_or_stop() {
    for after in (1..4000).step_by(61) {
        for way in [Way::ToOwner, Way::ToInitiator] {
            let relay = Relay::new();
            let with = |name| TcpOptions {
                streams: 1,
                silence: std::time::Duration::from_millis(300),
                ..Side::options(name)
            };
            let mut initiator = Side::open(with("initiator"), 64 << 10);
            let owner = Side::open(TcpOptions { advertise: vec![relay.address], ..with("owner") }, 64 << 10);
            relay.leads_to(owner.fabric.listening()[0]);
            owner.grant(TOKEN, Access::Read, &[(0, 64 << 10)]);
            owner.fill(after);
            relay.flip(way, after);
            let peer = initiator.fabric.connect(&owner.fabric.metadata().unwrap()).unwrap();
            let segments: Vec<_> = (0..64).map(|i| segment(i << 10, i << 10, 1000)).collect();
            let request = Request { checksum: true, ..read(peer, &segments) };
            let ended = initiator.run(request);
            let right = segments
                .iter()
                .all(|s| initiator.bytes(s.local.offset, s.len) == owner.bytes(s.local.offset, s.len));
            assert!(ended.is_err() || right, "wrong bytes were declared done: {after} {way:?}");
        }
    }
}
