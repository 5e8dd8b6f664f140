//! Who meets whom: lives, versions, secrets, and two who meet each other at once.

use std::io::{Read, Write};
use std::net::TcpListener;

use kvferry_transfer::fabric::tcp::{Secret, TcpOptions};
use kvferry_transfer::fabric::{Event, Fabric};
use kvferry_transfer::memory::Arena;
use kvferry_transfer::{Access, AgentName, Epoch, Error, Place, Refused, Segment};

use crate::support::{Relay, Side, TOKEN, place, read, segment, write};

const LEN: u64 = 4096;

#[test]
fn another_life_or_another_agent_at_the_address_is_not_talked_to() {
    let relay = Relay::new();
    let with = |name, epoch| TcpOptions {
        epoch: Epoch(epoch),
        advertise: vec![relay.address],
        ..Side::options(name)
    };
    let first = Side::open(with("owner", 1), LEN);
    let metadata = first.fabric.metadata().unwrap();
    drop(first);
    let mut initiator = Side::new("initiator", LEN);

    let second = Side::open(with("owner", 2), LEN);
    relay.leads_to(second.fabric.listening()[0]);
    assert_eq!(initiator.turned_away(&metadata), Error::StaleEpoch(Epoch(1), Epoch(2)));

    let other = Side::open(with("somebody-else", 1), LEN);
    relay.leads_to(other.fabric.listening()[0]);
    let peer = initiator.fabric.connect(&metadata).unwrap();
    assert_eq!(initiator.lost(peer).code(), "bad_metadata");
    relay.leads_to(second.fabric.listening()[0]);
    initiator.meet(&second);
}

#[test]
fn nobody_at_the_address_is_said_and_so_is_somebody_who_never_answers() {
    let mut initiator = Side::open(
        TcpOptions { connect_within: std::time::Duration::from_millis(300), ..Side::options("initiator") },
        LEN,
    );
    let owner = Side::new("owner", LEN);
    let metadata = owner.fabric.metadata().unwrap();
    owner.fabric.close();
    let peer = initiator.fabric.connect(&metadata).unwrap();
    assert_eq!(initiator.lost(peer).code(), "peer_lost");

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let options = TcpOptions { advertise: vec![mute.local_addr().unwrap()], ..Side::options("owner") };
    let owner = Side::open(options, LEN);
    let peer = initiator.fabric.connect(&owner.fabric.metadata().unwrap()).unwrap();
    let error = initiator.lost(peer);
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[test]
fn a_peer_of_another_version_is_told_apart_from_a_stranger() {
    for (answer, code) in [
        (&b"kvferry\n\x09\x00\x00\x00"[..], "protocol_version"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "peer_lost"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let options =
            TcpOptions { advertise: vec![listener.local_addr().unwrap()], ..Side::options("owner") };
        let owner = Side::open(options, LEN);
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 512]).unwrap() > 12);
            stream.write_all(answer).unwrap();
            stream
        });
        let mut initiator = Side::open(TcpOptions { streams: 1, ..Side::options("initiator") }, LEN);
        let peer = initiator.fabric.connect(&owner.fabric.metadata().unwrap()).unwrap();
        assert_eq!(initiator.lost(peer).code(), code);
        answering.join().unwrap();
    }
}

#[test]
fn metadata_that_was_cut_or_comes_from_elsewhere_is_refused_at_once() {
    let (initiator, owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    let metadata = owner.fabric.metadata().unwrap();
    for bad in [&metadata[..metadata.len() - 1], b"", b"\x7fELF", &[&metadata[..], b"x"].concat()] {
        assert_eq!(initiator.fabric.connect(bad).unwrap_err().code(), "bad_metadata");
    }
}

#[test]
fn a_secret_lets_in_those_who_know_it_and_nobody_else() {
    let with = |name, secret: Option<&[u8]>| {
        Side::open(TcpOptions { secret: secret.map(Secret::new), ..Side::options(name) }, LEN)
    };
    let (long, other) = (&[1_u8; 100][..], &b"another"[..]);
    for (ours, theirs, let_in) in [
        (Some(long), Some(long), true),
        (Some(long), Some(other), false),
        (Some(long), None, false),
        (None, Some(long), false),
    ] {
        let (mut initiator, owner) = (with("initiator", ours), with("owner", theirs));
        owner.grant(TOKEN, Access::Read, &[(0, LEN)]);
        let metadata = owner.fabric.metadata().unwrap();
        if let_in {
            let peer = initiator.fabric.connect(&metadata).unwrap();
            assert_eq!(initiator.run(read(peer, &[segment(0, 0, LEN)])), Ok(()));
        } else {
            assert_eq!(initiator.turned_away(&metadata).code(), "unauthenticated");
        }
    }
}

#[test]
fn two_that_meet_each_other_at_once_can_use_each_other_both_ways() {
    for round in 0..20 {
        let (mut one, mut other) = (Side::new("one", LEN), Side::new("other", LEN));
        let (to_one, to_other) = (one.fabric.metadata().unwrap(), other.fabric.metadata().unwrap());
        let there = one.fabric.connect(&to_other).unwrap();
        let back = other.fabric.connect(&to_one).unwrap();
        one.grant(TOKEN, Access::Write, &[(0, LEN)]);
        other.grant(TOKEN, Access::Write, &[(0, LEN)]);
        let out = one.fabric.submit(write(there, &[segment(0, 8, 8)])).unwrap();
        let home = other.fabric.submit(write(back, &[segment(0, 8, 8)])).unwrap();
        assert_eq!((one.outcome(out), other.outcome(home)), (Ok(()), Ok(())), "round {round}");
        one.fabric.notify(there, "to other".into()).unwrap();
        let heard = other.until(|event| matches!(event, Event::Notified(..))).pop().unwrap();
        assert_eq!(
            heard,
            Event::Notified(back, "to other".into()),
            "it is known by one number in both directions"
        );
    }
}

#[test]
fn an_agent_does_not_meet_itself() {
    let alone = Side::new("alone", LEN);
    let metadata = alone.fabric.metadata().unwrap();
    assert_eq!(alone.fabric.connect(&metadata).unwrap_err().code(), "bad_metadata");
}

#[test]
fn meeting_again_in_the_same_life_gives_the_same_number_and_makes_new_regions_known() {
    let (mut initiator, owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    let peer = initiator.meet(&owner);
    let more = Arena::create("more", 4096.try_into().unwrap()).unwrap();
    assert!(more.write_at(0, b"kv"));
    let region = owner.fabric.register(more).unwrap();
    let span = kvferry_transfer::Span::new(region, 0, 2);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    owner
        .fabric
        .grant(kvferry_transfer::Lease { token: TOKEN, access: Access::Read, spans: vec![span], deadline })
        .unwrap();
    let new = [Segment { local: place(0), remote: Place { region, offset: 0 }, len: 2 }];
    assert_eq!(initiator.run(read(peer, &new)), Ok(()), "its owner knows it");
    let beyond = [Segment { remote: Place { region, offset: 4095 }, ..new[0] }];
    assert_eq!(initiator.run(read(peer, &beyond)), Err(Error::Refused(Refused::Outside)));
    assert_eq!(initiator.fabric.connect(&owner.fabric.metadata().unwrap()), Ok(peer));
    assert_eq!(
        initiator.run(read(peer, &beyond)),
        Err(Error::OutOfRegion(region, 4096)),
        "now it is known at once"
    );
    assert_eq!(initiator.bytes(0, 2), b"kv");
}

#[test]
fn the_lane_is_named_once_it_stands() {
    let (mut initiator, owner) = (Side::new("initiator", LEN), Side::new("owner", LEN));
    let peer = initiator.fabric.connect(&owner.fabric.metadata().unwrap()).unwrap();
    let connected = initiator.until(|event| matches!(event, Event::Connected(..))).pop().unwrap();
    let lane = initiator.fabric.lane(peer).unwrap();
    assert_eq!(lane.to_string(), "tcp/lo (socket)");
    assert_eq!(connected, Event::Connected(peer, lane));
    initiator.fabric.disconnect(peer);
    initiator.lost(peer);
    assert_eq!(initiator.fabric.lane(peer), None);
}

#[test]
fn who_listens_everywhere_names_addresses_that_can_be_reached() {
    let everywhere = TcpOptions {
        listen: vec!["0.0.0.0:0".parse().unwrap()],
        ..TcpOptions::new(AgentName::new("owner").unwrap(), Epoch(1), "0.0.0.0:0".parse().unwrap())
    };
    let (mut initiator, owner) = (Side::new("initiator", LEN), Side::open(everywhere, LEN));
    initiator.meet(&owner);
}
