//! Encrypted streams: the same bytes get through, nobody on the way sees them, and who does not fit is told what to change.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvferry_transfer::fabric::tcp::{Secret, TcpOptions, Tls, TlsProblem};
use kvferry_transfer::fabric::{Event, Fabric, Request};
use kvferry_transfer::{Access, Error};
use rustls::version::TLS12;
use rustls::{ClientConfig, ServerConfig};

use crate::support::{Authority, Relay, Side, TOKEN, Way, named, read, segment, write};

const LEN: u64 = 8 << 20;
const HERE: &str = "127.0.0.1";

fn options(name: &str, tls: Option<&Tls>) -> TcpOptions {
    TcpOptions { tls: tls.cloned(), streams: 1, ..Side::options(name) }
}

/// An owner and an initiator with these, and the owner lets the other read and write.
fn sides(ours: Option<&Tls>, theirs: Option<&Tls>) -> (Side, Side) {
    let (initiator, owner) =
        (Side::open(options("initiator", ours), LEN), Side::open(options("owner", theirs), LEN));
    owner.grant(TOKEN, Access::Read, &[(0, LEN)]);
    (initiator, owner)
}

fn why_lost(initiator: &mut Side, owner: &Side) -> Error {
    initiator.turned_away(&owner.fabric.metadata().unwrap())
}

#[test]
fn scattered_bytes_are_read_and_written_through_encrypted_streams_and_the_lane_says_so() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), true);
    for (access, checksum) in [(Access::Read, false), (Access::Read, true), (Access::Write, true)] {
        let with = |name| TcpOptions { streams: 3, threads: 2, ..options(name, Some(&tls)) };
        let (mut initiator, owner) = (Side::open(with("initiator"), LEN), Side::open(with("owner"), LEN));
        owner.grant(TOKEN, access, &[(0, LEN)]);
        let peer = initiator.meet(&owner);
        assert_eq!(initiator.fabric.lane(peer).unwrap().to_string(), "tcp/lo (socket), encrypted");
        let segments: Vec<_> =
            (0..2000_u64).map(|i| segment(i * 4001, (1999 - i) * 4003, 1 + i * 37 % 4000)).collect();
        initiator.fill(1);
        owner.fill(2);
        let ask = if access == Access::Read { read } else { write };
        let before = owner.bytes(0, LEN);
        assert_eq!(initiator.run(Request { checksum, ..ask(peer, &segments) }), Ok(()));
        for s in &segments {
            let (here, there) = (initiator.bytes(s.local.offset, s.len), owner.bytes(s.remote.offset, s.len));
            assert!(here == there, "{s:?}");
        }
        assert!(access == Access::Write || owner.bytes(0, LEN) == before);
        let (half, far) = (LEN / 2, LEN - 3);
        owner.grant(kvferry_transfer::Token([8; 16]), Access::Read, &[(0, LEN)]);
        let all = Request { token: kvferry_transfer::Token([8; 16]), ..read(peer, &[segment(0, 0, far)]) };
        assert_eq!(initiator.run(all), Ok(()), "and long ones, whose last record is short");
        assert!(initiator.bytes(half, far - half) == owner.bytes(half, far - half));
    }
}

#[test]
fn both_sides_write_to_each_other_at_once_through_encrypted_streams() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    let len = 32 << 20;
    let mut one = Side::open(options("one", Some(&tls)), len);
    let mut other = Side::open(options("other", Some(&tls)), len);
    for side in [&one, &other] {
        side.grant(TOKEN, Access::Write, &[(0, len)]);
    }
    let (there, back) = (one.meet(&other), other.meet(&one));
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
fn nobody_on_the_way_sees_names_messages_or_blocks() {
    let authority = Authority::new();
    for tls in [None, Some(authority.tls(&authority.signs(HERE), false))] {
        let wire = Wire::new();
        let owner =
            Side::open(TcpOptions { advertise: vec![wire.address], ..options("owner", tls.as_ref()) }, LEN);
        wire.leads_to(owner.fabric.listening()[0]);
        let mut initiator = Side::open(options("initiator", tls.as_ref()), LEN);
        owner.grant(TOKEN, Access::Write, &[(0, LEN)]);
        let peer = initiator.meet(&owner);
        assert!(initiator.memory.write_at(0, b"the block's content"));
        let mut request = write(peer, &[segment(0, 0, 64)]);
        request.notify = Some("the message itself".into());
        assert_eq!(initiator.run(request), Ok(()));
        let seen = wire.seen.lock().unwrap().clone();
        for secret in [&b"the block's content"[..], b"the message itself", b"initiator", &TOKEN.0] {
            let found = seen.windows(secret.len()).any(|window| window == secret);
            assert_eq!(found, tls.is_none(), "{}", String::from_utf8_lossy(secret));
        }
    }
}

#[test]
fn a_side_that_encrypts_and_one_that_does_not_part_and_are_told_which_is_to_change() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    let (mut initiator, owner) = sides(Some(&tls), None);
    assert_eq!(why_lost(&mut initiator, &owner), Error::Tls(TlsProblem::PeerIsPlain));
    let (mut initiator, owner) = sides(None, Some(&tls));
    let error = why_lost(&mut initiator, &owner);
    assert_eq!((error.code(), error.may_retry()), ("tls_peer_encrypts", false));
    assert!(error.to_string().contains("give this side TLS"), "{error}");
    // And those who fit are served all the same.
    let mut fitting = Side::open(options("fitting", Some(&tls)), LEN);
    fitting.meet(&owner);
}

#[test]
fn certificates_that_are_not_trusted_or_for_somebody_else_are_named_as_the_reason() {
    let (ours, others) = (Authority::new(), Authority::new());
    let good = ours.tls(&ours.signs(HERE), false);
    let elsewhere = ours.tls(&ours.signs("10.9.8.7"), false);
    let foreign = others.tls(&others.signs(HERE), false);
    for theirs in [&elsewhere, &foreign] {
        let (mut initiator, owner) = sides(Some(&good), Some(theirs));
        let error = why_lost(&mut initiator, &owner);
        assert_eq!(error.code(), "tls_peer_certificate", "{error}");
    }
    let (mut initiator, owner) = sides(Some(&good), Some(&good));
    initiator.meet(&owner);
}

#[test]
fn an_owner_that_wants_a_certificate_turns_away_who_has_none_or_a_foreign_one() {
    let (ours, others) = (Authority::new(), Authority::new());
    let strict = ours.tls(&ours.signs(HERE), true);
    let none = ours.tls(&ours.signs(HERE), false);
    let foreign = ours.tls(&others.signs(HERE), true);
    for lacking in [&none, &foreign] {
        let (mut initiator, owner) = sides(Some(lacking), Some(&strict));
        assert_eq!(why_lost(&mut initiator, &owner).code(), "tls_own_certificate");
    }
    let (mut initiator, owner) = sides(Some(&strict), Some(&strict));
    initiator.meet(&owner);
}

#[test]
fn one_name_for_all_agents_is_asked_for_instead_of_their_addresses() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs("agents.kvferry.example"), true);
    let (mut initiator, owner) = sides(Some(&tls), Some(&tls));
    assert_eq!(why_lost(&mut initiator, &owner).code(), "tls_peer_certificate");
    let tls = named(tls, "agents.kvferry.example");
    let (mut initiator, owner) = sides(Some(&tls), Some(&tls));
    initiator.meet(&owner);
}

#[test]
fn sides_without_a_version_in_common_say_so() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let old = |_: &ServerConfig| {
        let paper = rcgen::generate_simple_self_signed([HERE.to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(paper.signing_key.serialize_der()).unwrap();
        ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![paper.cert.der().clone()], key)
            .unwrap()
    };
    let new = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let theirs = Tls { server: Arc::new(old(&tls.server)), ..tls.clone() };
    let ours = Tls { client: Arc::new(new), ..tls };
    let (mut initiator, owner) = sides(Some(&ours), Some(&theirs));
    assert_eq!(why_lost(&mut initiator, &owner).code(), "tls");
}

#[test]
fn a_secret_is_asked_for_through_encrypted_streams_as_well() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    let with = |name, secret: &[u8]| {
        Side::open(TcpOptions { secret: Some(Secret::new(secret)), ..options(name, Some(&tls)) }, LEN)
    };
    let (mut initiator, owner) = (with("initiator", b"ours"), with("owner", b"ours"));
    initiator.meet(&owner);
    let mut stranger = with("stranger", b"theirs");
    assert_eq!(why_lost(&mut stranger, &owner).code(), "unauthenticated");
}

#[test]
fn a_bit_turned_on_the_way_ends_the_stream_before_wrong_bytes_are_used() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    // The first bytes are a record's header, some of whose bits mean nothing.
    for after in [100, 1000, 100_000, 1_000_000] {
        for way in [Way::ToInitiator, Way::ToOwner] {
            let relay = Relay::new();
            let mut initiator = Side::open(options("initiator", Some(&tls)), LEN);
            let owner = Side::open(
                TcpOptions { advertise: vec![relay.address], ..options("owner", Some(&tls)) },
                LEN,
            );
            relay.leads_to(owner.fabric.listening()[0]);
            owner.fill(after);
            owner.grant(TOKEN, Access::Read, &[(0, LEN)]);
            let peer = initiator.meet(&owner);
            relay.flip(way, after);
            let ended = initiator.run(read(peer, &[segment(0, 0, LEN)]));
            match (way, &ended) {
                (Way::ToInitiator, Err(error)) => assert!(error.code().starts_with("tls"), "{error}"),
                (Way::ToInitiator, Ok(())) => panic!("a turned bit went unnoticed"),
                // Not that much goes to the owner: then no bit was turned.
                (Way::ToOwner, _) => {}
            }
            assert!(ended.is_err() || initiator.bytes(0, LEN) == owner.bytes(0, LEN));
        }
    }
}

#[test]
fn turned_bits_anywhere_in_the_first_words_never_make_a_side_hang_or_stop() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), true);
    let with = |name| TcpOptions { silence: Duration::from_millis(300), ..options(name, Some(&tls)) };
    for after in (1..2500).step_by(83) {
        for way in [Way::ToOwner, Way::ToInitiator] {
            let relay = Relay::new();
            let mut initiator = Side::open(with("initiator"), LEN);
            let owner = Side::open(TcpOptions { advertise: vec![relay.address], ..with("owner") }, LEN);
            relay.leads_to(owner.fabric.listening()[0]);
            owner.grant(TOKEN, Access::Read, &[(0, LEN)]);
            owner.fill(after);
            relay.flip(way, after);
            let peer = initiator.fabric.connect(&owner.fabric.metadata().unwrap()).unwrap();
            let ended = initiator.run(read(peer, &[segment(0, 0, 4096)]));
            let right = initiator.bytes(0, 4096) == owner.bytes(0, 4096);
            assert!(ended.is_err() || right, "wrong bytes were declared done: {after} {way:?}");
            let mut other = Side::open(TcpOptions { streams: 1, ..with("other") }, LEN);
            relay.flip(way, 0);
            other.meet(&owner);
        }
    }
}

#[test]
fn garbage_on_an_encrypted_port_is_turned_away_and_others_are_served() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    let (mut initiator, owner) = sides(Some(&tls), Some(&tls));
    let address = owner.fabric.listening()[0];
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"kvferry!", &[0x16, 3, 1, 0xff, 0xff], &[0x16; 5000]] {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(garbage);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Whatever it says, it ends.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    initiator.meet(&owner);
}

#[test]
fn what_was_said_right_before_closing_arrives_through_an_encrypted_stream() {
    let authority = Authority::new();
    let tls = authority.tls(&authority.signs(HERE), false);
    let (mut initiator, mut owner) = sides(Some(&tls), Some(&tls));
    let peer = initiator.meet(&owner);
    initiator.fabric.notify(peer, "farewell".into()).unwrap();
    initiator.fabric.close();
    assert_eq!(owner.message(), &b"farewell"[..]);
    owner.until(|event| matches!(event, Event::Lost(..)));
}

/// Passes all on, and keeps what it has seen.
struct Wire {
    address: std::net::SocketAddr,
    seen: Arc<Mutex<Vec<u8>>>,
    owner: Arc<Mutex<Option<std::net::SocketAddr>>>,
}

impl Wire {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire =
            Self { address: listener.local_addr().unwrap(), seen: Arc::default(), owner: Arc::default() };
        let (seen, owner) = (Arc::clone(&wire.seen), Arc::clone(&wire.owner));
        std::thread::spawn(move || {
            for from in listener.incoming() {
                let (from, to) = (from.unwrap(), TcpStream::connect(owner.lock().unwrap().unwrap()).unwrap());
                let ways =
                    [(from.try_clone().unwrap(), to.try_clone().unwrap()), (to.try_clone().unwrap(), from)];
                for (mut source, mut sink) in ways {
                    let seen = Arc::clone(&seen);
                    std::thread::spawn(move || {
                        let mut bytes = vec![0; 64 << 10];
                        while let Ok(count @ 1..) = source.read(&mut bytes) {
                            seen.lock().unwrap().extend(&bytes[..count]);
                            if sink.write_all(&bytes[..count]).is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        wire
    }

    fn leads_to(&self, owner: std::net::SocketAddr) {
        *self.owner.lock().unwrap() = Some(owner);
    }
}
