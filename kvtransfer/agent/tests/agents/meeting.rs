//! Who is met and who is not, and what is said about it.

use std::sync::Arc;

use bytes::Bytes;
use kvferry_agent::{Event, Options, Secret, Tls};
use kvferry_transfer::{Access, AgentName, Epoch};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use crate::support::{MIB, Of, Side, end, segments, soon, wait};

fn named(name: &str, epoch: u64, change: impl FnOnce(Options) -> Options) -> Side {
    Side::with(name, epoch, &[Of::Tcp], MIB, change)
}

fn secret(word: &'static [u8]) -> impl FnOnce(Options) -> Options {
    move |options| Options { secret: Some(Secret::new(word)), ..options }
}

fn code(a: &Side, b: &Side) -> String {
    wait(a.agent.connect(&b.address(), None)).unwrap_err().code().into()
}

#[test]
fn both_sides_hear_of_each_other_and_what_is_said_about_them() {
    let mut a = named("a", 7, |options| Options { about: Bytes::from_static(b"decode"), ..options });
    let mut b = named("b", 8, |options| Options { about: Bytes::from_static(b"prefill"), ..options });
    let peer = a.meet(&b);
    assert_eq!((peer.name().as_str(), peer.epoch(), &peer.about()[..]), ("b", Epoch(8), &b"prefill"[..]));
    let met = |event| if let Event::Connected(peer) = event { Some(peer) } else { None };
    assert_eq!(a.until(met), peer);
    let back = b.until(met);
    assert_eq!((back.name().as_str(), back.epoch(), &back.about()[..]), ("a", Epoch(7), &b"decode"[..]));
    assert_eq!(a.meet(&b), peer, "whoever is met is met");
    assert_eq!(b.meet(&a), back);
    a.agent.disconnect(&peer);
    assert_eq!(a.lost(), "cancelled");
    assert_eq!(b.lost(), "peer_lost");
    assert_ne!(a.meet(&b), peer, "and can be met again");
}

#[test]
fn two_that_connect_to_each_other_at_once_are_one_peer_each_and_of_use() {
    for round in 0..25 {
        let (mut a, mut b) =
            (Side::new("a", &[Of::Shm, Of::Tcp], MIB), Side::new("b", &[Of::Shm, Of::Tcp], MIB));
        let (to_b, to_a) = (a.agent.connect(&b.address(), None), b.agent.connect(&a.address(), None));
        let (to_b, to_a) = (wait(to_b).unwrap(), wait(to_a).unwrap());
        b.fill(round);
        a.fill(round);
        let (of_a, of_b) = (a.grant(Access::Read), b.grant(Access::Read));
        let there = a.agent.read(&to_b, of_b, segments(a.region, b.region, MIB, 8), soon().verified());
        let back = b.agent.read(&to_a, of_a, segments(b.region, a.region, MIB, 8), soon());
        assert_eq!((end(there).unwrap().bytes, end(back).unwrap().bytes), (MIB, MIB));
        for side in [&mut a, &mut b] {
            let mut connected = 0;
            while let Some(event) = side.events.try_next() {
                assert!(matches!(event, Event::Connected(_)), "round {round}: {event:?}");
                connected += 1;
            }
            assert_eq!(connected, 1, "round {round}");
        }
    }
}

#[test]
fn only_those_that_know_the_same_secret_meet() {
    let (a, b) = (named("a", 1, secret(b"the same")), named("b", 1, secret(b"the same")));
    let peer = a.meet(&b);
    let token = b.grant(Access::Read);
    end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 1), soon())).unwrap();
    let (other, none) = (named("c", 1, secret(b"another")), named("d", 1, |options| options));
    for (from, to) in [(&a, &other), (&other, &a), (&a, &none), (&none, &a)] {
        assert_eq!(code(from, to), "unauthenticated");
    }
    let words = wait(none.agent.connect(&a.address(), None)).unwrap_err().to_string();
    assert!(words.contains("give all agents of the deployment the same secret"), "{words}");
}

#[test]
fn oneself_a_namesake_another_one_and_another_life_are_told_apart() {
    let (a, namesake, b) = (named("a", 1, |of| of), named("a", 2, |of| of), named("b", 5, |of| of));
    assert_eq!(code(&a, &a), "self_connect");
    assert_eq!(code(&a, &namesake), "name_clash");
    let expecting = |name: &str, epoch: Option<u64>| {
        let expected = Some((AgentName::new(name).unwrap(), epoch.map(Epoch)));
        wait(a.agent.connect(&b.address(), expected)).map(drop).map_err(|error| error.code())
    };
    assert_eq!(expecting("c", None), Err("wrong_peer"));
    assert_eq!(expecting("b", Some(4)), Err("stale_epoch"));
    assert_eq!(expecting("b", Some(5)), Ok(()));
}

#[test]
fn nobody_there_and_nothing_in_common_are_errors_that_say_so() {
    let a = named("a", 1, |options| options);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(wait(a.agent.connect(&free.to_string(), None)).unwrap_err().code(), "unreachable");
    assert_eq!(wait(a.agent.connect("nowhere.invalid:1", None)).unwrap_err().code(), "unreachable");
    let shm = Side::new("b", &[Of::Shm], MIB);
    let error = wait(a.agent.connect(&shm.address(), None)).unwrap_err();
    assert_eq!(error.code(), "no_lane");
    assert!(error.to_string().contains("0 fabrics are common"), "{error}");
}

fn tls() -> Tls {
    let made = rcgen::generate_simple_self_signed(vec!["agents.test".into()]).unwrap();
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots.clone()),
        Arc::clone(&provider),
    );
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate.clone()], key.clone_key())
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    let peers_are = Some(ServerName::try_from("agents.test").unwrap());
    Tls { server: Arc::new(server), client: Arc::new(client), peers_are }
}

#[test]
fn with_tls_only_those_with_certificates_that_are_trusted_meet() {
    let (ours, strange) = (tls(), tls());
    let with = |name, tls: &Tls| {
        let tls = Some(tls.clone());
        named(name, 1, |options| Options { tls, secret: Some(Secret::new(b"too")), ..options })
    };
    let (a, mut b) = (with("a", &ours), with("b", &ours));
    let peer = a.meet(&b);
    let token = b.grant(Access::Write);
    let all = segments(a.region, b.region, MIB, 4);
    end(a.agent.write(&peer, token, all, soon().verified().notifying("there"))).unwrap();
    assert_eq!(b.notified(), b"there");
    let (c, bare) = (with("c", &strange), named("d", 1, secret(b"too")));
    assert_eq!(code(&a, &c), "tls");
    assert_eq!(code(&a, &bare), "tls");
    assert_eq!(code(&bare, &a), "foreign");
}

/// Who is who is not asked of callers: their side needs no certificate.
fn tls_without_client_certificates() -> Tls {
    let made = rcgen::generate_simple_self_signed(vec!["agents.test".into()]).unwrap();
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let peers_are = Some(ServerName::try_from("agents.test").unwrap());
    Tls { server: Arc::new(server), client: Arc::new(client), peers_are }
}

#[test]
fn with_tls_and_no_client_certificates_the_secret_tells_who_may_come() {
    let tls = tls_without_client_certificates();
    let with = |name, word: Option<&[u8]>| {
        let (tls, secret) = (Some(tls.clone()), word.map(Secret::new));
        named(name, 1, |options| Options { tls, secret, ..options })
    };
    let (a, mut b) = (with("a", Some(b"word")), with("b", Some(b"word")));
    let peer = a.meet(&b);
    a.agent.notify(&peer, Bytes::from_static(b"hello")).unwrap();
    assert_eq!(b.notified(), b"hello");
    for wrong in [with("c", Some(b"other")), with("d", None)] {
        assert_eq!(
            (code(&wrong, &a), code(&a, &wrong)),
            ("unauthenticated".into(), "unauthenticated".into())
        );
    }
}

#[test]
fn whoever_connects_to_a_peer_time_and_again_gets_the_same_one() {
    let (a, b) = (named("a", 1, |of| of), named("b", 1, |of| of));
    let peer = a.meet(&b);
    for _ in 0..20 {
        assert_eq!(a.meet(&b), peer);
    }
    let back = b.meet(&a);
    assert_eq!(b.meet(&a), back);
    let token = b.grant(Access::Read);
    end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 1), soon())).unwrap();
}

#[test]
fn a_message_for_a_peer_that_is_lost_is_refused() {
    let (mut a, b) = (named("a", 1, |of| of), named("b", 1, |of| of));
    let peer = a.meet(&b);
    drop(b);
    assert_eq!(a.lost(), "peer_lost");
    assert_eq!(a.agent.notify(&peer, Bytes::new()).unwrap_err().code(), "unknown_peer");
}

#[test]
fn a_peer_that_is_parted_from_and_met_again_at_once_is_of_use() {
    let (a, b) = (Side::new("a", &[Of::Shm, Of::Tcp], MIB), Side::new("b", &[Of::Shm, Of::Tcp], MIB));
    let token = b.grant(Access::Read);
    for round in 0..50 {
        let peer = a.meet(&b);
        b.fill(round);
        let lost = a.agent.read(&peer, token, segments(a.region, b.region, MIB, 64), soon());
        if round % 2 == 0 {
            end(lost).unwrap();
        }
        a.agent.disconnect(&peer);
        // Nobody waits for the end of that.
        let peer = a.meet(&b);
        let report = end(a.agent.read(&peer, token, segments(a.region, b.region, MIB, 8), soon())).unwrap();
        assert_eq!(report.bytes, MIB);
        a.agent.disconnect(&peer);
    }
    crate::support::eventually("an end of all", || wait(a.agent.snapshot()).unwrap().peers.is_empty());
}
