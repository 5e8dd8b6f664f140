//! Clients that hang, come in crowds or speak nonsense keep nobody else from being answered.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use common::{Answer, Says, ask, connect, get, start};
use kvferry_admin::{Accepting, Acceptor, Admin, Stream};
use tokio::io::AsyncReadExt;

#[test]
fn a_probe_is_answered_while_hundreds_of_clients_say_half_a_request() {
    let (admin, _) = start(Says::default(), None);
    let slow: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = connect(&admin);
            stream.write_all(b"GET /ready HTTP/1.1\r\nhost: loc").unwrap();
            stream
        })
        .collect();
    assert_eq!(get(&admin, "/ready").status, 200);
    // The oldest gave way.
    let mut first = slow.into_iter().next().unwrap();
    match first.read(&mut [0]) {
        Ok(read) => assert_eq!(read, 0),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn a_reader_that_never_reads_delays_nobody() {
    let metrics = "a 1\n".repeat(5_000_000);
    let (admin, _) = start(Says { metrics, ..Says::default() }, None);
    let mut stuck = connect(&admin);
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    for _ in 0..20 {
        assert_eq!(get(&admin, "/ready").status, 200);
    }
}

#[test]
fn a_crowd_of_honest_clients_is_served_to_the_last() {
    let (admin, _) = start(Says::default(), None);
    // Fewer at a time than the port holds: nobody has to give way.
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(get(&admin, "/metrics").body, "# EOF\n");
                }
            });
        }
    });
}

#[test]
fn a_connection_carries_one_request() {
    let (admin, _) = start(Says::default(), None);
    let answer = get(&admin, "/live");
    assert!(answer.head.contains("connection: close"), "{}", answer.head);
}

#[test]
fn nonsense_is_refused_and_the_next_is_served() {
    let (admin, _) = start(Says::default(), None);
    for nonsense in
        ["\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut stream = connect(&admin);
        stream.write_all(nonsense.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Refused with a status or without a word, but over.
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{nonsense:?}");
    }
    assert_eq!(get(&admin, "/live").status, 200);
    let long = format!("/{}", "x".repeat(100_000));
    let mut stream = connect(&admin);
    let _ = write!(stream, "GET {long} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(get(&admin, "/live").status, 200);
}

#[test]
fn a_stopped_port_refuses_connections_though_clients_still_hang_on_it() {
    let (admin, source) = start(Says::default(), None);
    let address = admin.address();
    let _hanging = connect(&admin);
    admin.stop();
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(Arc::strong_count(&source), 1, "nothing of the port is left");
}

#[test]
fn a_dropped_port_is_closed_too() {
    let (admin, _) = start(Says::default(), None);
    let address = admin.address();
    drop(admin);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_port_in_use_is_an_error() {
    let (admin, _) = start(Says::default(), None);
    let error = Admin::start(admin.address(), Arc::new(Says::default()), None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn all_interfaces_include_those_of_ipv4() {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let admin = Admin::start(everywhere, Arc::new(Says::default()), None).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", admin.address().port())).unwrap();
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 200);
}

/// Stands for a TLS handshake: lets in who says the word.
struct Password;

impl Acceptor for Password {
    fn accept(&self, mut stream: tokio::net::TcpStream) -> Accepting {
        Box::pin(async move {
            let mut word = [0; 4];
            stream.read_exact(&mut word).await?;
            if &word == b"open" {
                Ok(Box::new(stream) as Box<dyn Stream>)
            } else {
                Err(io::Error::other("not the word"))
            }
        })
    }
}

#[test]
fn http_is_spoken_only_after_the_handshake() {
    let (admin, _) = start(Says::default(), Some(Arc::new(Password)));
    let mut refused = connect(&admin);
    refused.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = refused.read_to_end(&mut answer);
    assert_eq!(answer, b"");

    // Neither does a handshake that never comes hold up the one that does.
    let _silent = connect(&admin);
    let mut welcome = connect(&admin);
    welcome.write_all(b"openGET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut welcome).status, 200);
}

#[test]
fn a_body_that_breaks_off_changes_nothing() {
    let (admin, _) = start(Says::default(), None);
    let mut stream = connect(&admin);
    stream
        .write_all(b"PUT /log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\ndebug")
        .unwrap();
    drop(stream);
    assert_eq!(ask(&admin, "GET", "/log-level", "").json()["level"], "info");
}
