//! What comes from strangers: noise, other protocols, other versions, too much, and nothing at all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use kvferry_agent::{Error, Options};
use kvferry_transfer::Access;
use kvferry_transfer::fabric::Fabric;

use crate::support::{MIB, Of, Side, end, pair, segments, soon, wait};

const MAGIC: &[u8] = b"KVFa";

fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
    frame.extend(body);
    frame
}

/// A greeting of these versions.
fn greeting(name: &str, low: u16, high: u16) -> Vec<u8> {
    let mut body = vec![1];
    body.extend(low.to_le_bytes());
    body.extend(high.to_le_bytes());
    body.extend(77_u64.to_le_bytes());
    body.extend([9; 32]);
    body.push(0);
    body.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
    body.extend(name.as_bytes());
    [MAGIC, &frame(&body)].concat()
}

/// A hello with one fabric, whose metadata is noise, and no regions.
fn hello() -> Vec<u8> {
    let mut body = vec![3];
    body.extend(5_u64.to_le_bytes());
    body.extend(1_u32.to_le_bytes());
    body.extend(3_u32.to_le_bytes());
    body.extend(b"tcp");
    body.extend(5_u32.to_le_bytes());
    body.extend(b"noise");
    body.extend(0_u32.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    frame(&body)
}

/// What is read until the other side closes.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    // It may be reset when what was sent is not read.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

#[test]
fn whoever_speaks_otherwise_is_told_why_and_harms_nobody() {
    let (a, b, peer) = pair(&[Of::Tcp], MIB);
    let oversized = [MAGIC, &u32::MAX.to_le_bytes()].concat();
    let torn = [MAGIC, &frame(&[1, 1, 0])].concat();
    for (said, code) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "foreign"),
        (greeting("c", 7, 9), "protocol_version"),
        (oversized, "oversized_frame"),
        (torn, "malformed_frame"),
        (greeting("b", 1, 1), "name_clash"),
        ([MAGIC, &frame(&[99])].concat(), "malformed_frame"),
        ([greeting("c", 1, 1), frame(&[12, 0, 0, 0, 0])].concat(), "malformed_frame"),
    ] {
        let mut stream = TcpStream::connect(b.address()).unwrap();
        stream.write_all(&said).unwrap();
        let answer = rest(stream);
        assert!(contains(&answer, code), "{code}: {}", String::from_utf8_lossy(&answer));
    }
    let token = b.grant(Access::Read);
    end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 1), soon())).unwrap();
}

/// A server that says this to whoever connects, and then waits.
fn server(says: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&says).unwrap();
        rest(stream)
    });
    address
}

#[test]
fn whoever_answers_otherwise_is_an_error_that_says_what_it_is() {
    let short = |options| Options { meet_within: Duration::from_millis(300), ..options };
    let a = Side::with("a", 1, &[Of::Tcp], MIB, short);
    let refuse = [&[4, 4, 0, 0, 0][..], b"full", &[5, 0, 0, 0], b"later"].concat();
    for (says, code) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "foreign"),
        (greeting("c", 7, 9), "protocol_version"),
        ([MAGIC, &u32::MAX.to_le_bytes()].concat(), "oversized_frame"),
        (vec![], "unreachable"),
        ([MAGIC, &frame(&refuse)].concat(), "turned_away"),
    ] {
        let error = wait(a.agent.connect(&server(says), None)).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
    let error = wait(a.agent.connect(&server(greeting("c", 7, 9)), None)).unwrap_err();
    assert_eq!(error, Error::Version((7, 9), (1, 1)));
}

#[test]
fn a_peer_that_falls_silent_is_lost_and_one_whose_fabric_is_noise_has_no_lane() {
    let short = |options| Options { silence: Duration::from_millis(400), ..options };
    let mut a = Side::with("a", 1, &[Of::Tcp], MIB, short);
    let address = server([greeting("c", 1, 1), hello()].concat());
    let peer = wait(a.agent.connect(&address, None)).unwrap();
    let token = a.grant(Access::Read);
    let error = wait(a.agent.read(&peer, token, vec![], soon().notifying("unheard"))).map(drop);
    assert_eq!(error.map_err(|failure| failure.error.code()), Ok(()), "nothing is to be moved");
    assert_eq!(a.lost(), "peer_silent");
}

#[test]
fn a_peer_that_breaks_the_protocol_later_is_lost_and_told_why() {
    let mut b = Side::new("b", &[Of::Tcp], MIB);
    for broken in [frame(&[200]), frame(&vec![6; 1 << 17]), hello(), frame(&[])] {
        let mut stream = TcpStream::connect(b.address()).unwrap();
        stream.write_all(&[greeting("c", 1, 1), hello(), broken].concat()).unwrap();
        assert_eq!(b.lost(), "malformed_frame");
        assert!(contains(&rest(stream), "a control frame cannot be read"));
    }
}

/// A hello with one fabric of this metadata.
fn hello_with(metadata: &[u8], session: u64) -> Vec<u8> {
    let mut body = vec![3];
    body.extend(session.to_le_bytes());
    body.extend(1_u32.to_le_bytes());
    body.extend(3_u32.to_le_bytes());
    body.extend(b"tcp");
    body.extend(u32::try_from(metadata.len()).unwrap().to_le_bytes());
    body.extend(metadata);
    body.extend([0; 8]);
    frame(&body)
}

#[test]
fn a_peer_that_says_another_ones_fabric_is_its_own_gets_nothing_and_takes_nothing_from_it() {
    let (mut a, b, peer) = pair(&[Of::Tcp], MIB);
    let token = b.grant(Access::Read);
    let all = segments(a.region, b.region, MIB, 4);
    end(a.agent.read(&peer, token, all.clone(), soon())).unwrap();
    let theirs = b.fabrics[0].metadata().unwrap();
    let mut stream = TcpStream::connect(a.address()).unwrap();
    let mut table = hello_with(&theirs, 5);
    table[4] = 5;
    stream.write_all(&[greeting("thief", 1, 1), hello_with(&theirs, 5), table].concat()).unwrap();
    let thief = a.until(|event| match event {
        kvferry_agent::Event::Connected(peer) if peer.name().as_str() == "thief" => Some(peer),
        _ => None,
    });
    let within = kvferry_agent::TransferOptions::within(Duration::from_millis(300));
    let nothing = segments(a.region, b.region, 0, 1);
    let stolen = wait(a.agent.read(&thief, token, nothing, within)).map_err(|failure| failure.error.code());
    assert!(matches!(stolen, Err("deadline" | "unknown_remote_region")), "{stolen:?}");
    a.agent.disconnect(&thief);
    assert_eq!(a.lost(), "cancelled");
    end(a.agent.read(&peer, token, all, soon())).unwrap();
    let lanes = wait(a.agent.snapshot()).unwrap().peers.remove(0).lanes;
    assert_eq!((lanes[0].state, lanes[0].losses), ("up", 0), "its lane was never touched");
}

#[test]
fn peers_that_come_say_much_and_go_cannot_fill_the_memory_of_an_owner_that_takes_nothing() {
    const MOST: u64 = 4 * MIB;
    let narrow = |options| Options { unheard_bytes: MOST, ..options };
    let b = Side::with("b", 1, &[Of::Tcp], MIB, narrow);
    let message = frame(&[&[6][..], &vec![7; 60_000]].concat());
    let mut full = 0;
    for session in 0..40 {
        let mut stream = TcpStream::connect(b.address()).unwrap();
        let said = [greeting("c", 1, 1), hello_with(b"noise", session)].concat();
        // It may be turned away before it has said all.
        let _ = stream.write_all(&[said, message.repeat(10), frame(&[12, 0, 0, 0, 0])].concat());
        full += usize::from(contains(&rest(stream), "full"));
    }
    assert!(full >= 20, "{full} were turned away");
    let snapshot = wait(b.agent.snapshot()).unwrap();
    assert!(snapshot.unheard > MOST / 2 && snapshot.unheard <= MOST + MIB, "{}", snapshot.unheard);
    // Whoever drops the events does not want them, and nothing waits any more.
    let Side { agent, events, .. } = b;
    drop(events);
    assert_eq!(wait(agent.snapshot()).unwrap().unheard, 0);
    let mut stream = TcpStream::connect(agent.listening().unwrap()).unwrap();
    let said = [greeting("d", 1, 1), hello_with(b"noise", 1), frame(&[12, 0, 0, 0, 0])].concat();
    stream.write_all(&said).unwrap();
    assert!(!contains(&rest(stream), "full"));
}
