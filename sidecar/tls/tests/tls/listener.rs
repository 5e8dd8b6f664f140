//! What clients of the listener see.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kvferry_tls::{HandshakeError, ListenerOptions, ListenerTls, Protocol};
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion, SupportedCipherSuite};
use tokio::io::AsyncWriteExt;

use super::common::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[tokio::test]
async fn without_a_directory_the_certificate_is_self_signed_by_llm_d_for_ten_years() {
    let (_, client) = meet(&self_signed(), &unverified(), "10.0.0.7").await;
    let shown = shown(client.get_ref().1);

    // OID 2.5.4.10 (organisation), UTF-8 string of five bytes.
    let organisation = b"\x55\x04\x0a\x0c\x05llm-d";
    let found = shown.windows(organisation.len()).filter(|bytes| bytes == organisation).count();
    assert_eq!(found, 2, "as subject and as issuer");

    let judge = verifier(shown.clone());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let at = |host: &'static str, when: Duration| {
        let host = ServerName::try_from(host).unwrap();
        judge.verify_server_cert(&shown, &[], &host, &[], UnixTime::since_unix_epoch(when)).is_ok()
    };
    assert!(at("localhost", now) && at("127.0.0.1", now) && at("::1", now));
    assert!(!at("example.com", now));
    // Our clock may be ahead of the client's.
    let behind = now.saturating_sub(Duration::from_secs(3600));
    assert!(at("localhost", behind) && at("localhost", now + 9 * YEAR));
    assert!(!at("localhost", now + 11 * YEAR));
}

#[tokio::test]
async fn a_strict_client_that_pinned_the_self_signed_certificate_connects() {
    let listener = self_signed();
    let (_, client) = meet(&listener, &unverified(), "localhost").await;
    let strict = Arc::new(plain_client(verifier(shown(client.get_ref().1)), &[&TLS12, &TLS13]));
    for host in ["localhost", "127.0.0.1"] {
        let (server, client) = shake_with(&listener, &strict, host).await;
        converse(&mut server.unwrap(), &mut client.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn the_directorys_certificate_is_shown() {
    let authority = Authority::new("ours");
    let pair = authority.server(&["decode.example"]);
    let folder = Folder::with(&pair);
    let client = Arc::new(plain_client(authority.verifier(), &[&TLS13]));
    let (server, client) = shake_with(&serving(&folder), &client, "decode.example").await;
    let (mut server, mut client) = (server.unwrap(), client.unwrap());
    assert_eq!(shown(client.get_ref().1), pair.der);
    converse(&mut server, &mut client).await.unwrap();
}

#[tokio::test]
async fn clients_below_the_lowest_version_are_refused() {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(&["localhost"]));
    for (floor, version, agreed) in [
        ("", &TLS12, Some(ProtocolVersion::TLSv1_2)),
        ("VersionTLS12", &TLS12, Some(ProtocolVersion::TLSv1_2)),
        ("VersionTLS12", &TLS13, Some(ProtocolVersion::TLSv1_3)),
        ("VersionTLS13", &TLS13, Some(ProtocolVersion::TLSv1_3)),
        ("VersionTLS13", &TLS12, None),
    ] {
        let listener = ListenerTls::start(ListenerOptions {
            cert_dir: Some(folder.path()),
            min_version: floor.to_owned(),
            ..ListenerOptions::default()
        })
        .unwrap();
        let client = Arc::new(plain_client(authority.verifier(), &[version]));
        let (server, client) = shake_with(&listener, &client, "localhost").await;
        if let Some(agreed) = agreed {
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            assert_eq!(server.get_ref().1.protocol_version(), Some(agreed), "{floor}");
            converse(&mut server, &mut client).await.unwrap();
        } else {
            assert!(client.is_err());
            let error = why(server);
            assert!(matches!(error, HandshakeError::NothingInCommon { .. }), "{error:?}");
            assert!(error.to_string().contains("--tls-min-version"), "{error}");
        }
    }
}

#[tokio::test]
async fn only_named_suites_are_agreed_in_tls_1_2_and_all_in_tls_1_3() {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(&["localhost"]));
    let listener = ListenerTls::start(ListenerOptions {
        cert_dir: Some(folder.path()),
        cipher_suites: vec!["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".to_owned()],
        ..ListenerOptions::default()
    })
    .unwrap();
    let attempt = async |suites: &[SupportedCipherSuite]| {
        let mut provider = ring::default_provider();
        provider.cipher_suites = suites.to_vec();
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS12, &TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(authority.verifier())
            .with_no_client_auth();
        let (server, _) = shake_with(&listener, &Arc::new(client), "localhost").await;
        server.map(|server| server.get_ref().1.negotiated_cipher_suite().unwrap().suite())
    };

    let both = [
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ];
    assert_eq!(attempt(&both).await.unwrap(), CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    assert!(matches!(why(attempt(&both[..1]).await), HandshakeError::NothingInCommon { .. }));
    for suite in [
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ] {
        assert_eq!(attempt(&[suite]).await.unwrap(), suite.suite());
    }
}

#[tokio::test]
async fn http_2_is_agreed_with_clients_that_offer_it() {
    let listener = self_signed();
    let (_, client) = meet(&listener, &unverified(), "localhost").await;
    let anchor = shown(client.get_ref().1);
    for (offer, agreed) in [
        (&[b"h2".as_slice(), b"http/1.1"][..], Some(Protocol::Http2)),
        (&[b"http/1.1".as_slice()][..], Some(Protocol::Http1)),
        (&[][..], Some(Protocol::Http1)),
        (&[b"spdy/3".as_slice()][..], None),
    ] {
        let mut client = plain_client(verifier(anchor.clone()), &[&TLS13]);
        client.alpn_protocols = offer.iter().map(|name| name.to_vec()).collect();
        let (server, _) = shake_with(&listener, &Arc::new(client), "localhost").await;
        assert_eq!(server.ok().map(|server| Protocol::of(&server)), agreed, "{offer:?}");
    }
}

#[tokio::test]
async fn a_listener_without_http_2_agrees_on_http_1_1() {
    let listener =
        ListenerTls::start(ListenerOptions { http1_only: true, ..ListenerOptions::default() }).unwrap();
    let (_, client) = meet(&listener, &unverified(), "localhost").await;
    let mut client = plain_client(verifier(shown(client.get_ref().1)), &[&TLS13]);
    client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (server, client) = shake_with(&listener, &Arc::new(client), "localhost").await;
    assert_eq!(Protocol::of(&server.unwrap()), Protocol::Http1);
    assert_eq!(client.unwrap().get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
}

#[tokio::test]
async fn returning_clients_resume_their_session() {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(&["localhost"]));
    let listener = serving(&folder);
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(plain_client(authority.verifier(), &[version]));
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (server, client) = shake_with(&listener, &client, "localhost").await;
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            converse(&mut server, &mut client).await.unwrap();
            assert_eq!(server.get_ref().1.handshake_kind(), Some(expected));
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_is_told_from_other_failures() {
    let stranger = Authority::new("stranger");
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(plain_client(stranger.verifier(), &[version]));
        let (server, _) = shake_with(&self_signed(), &client, "localhost").await;
        let error = why(server);
        assert!(matches!(error, HandshakeError::Distrusted { .. }), "{error:?}");
        assert!(error.to_string().contains("UnknownCA"), "{error}");
    }
}

#[tokio::test]
async fn plain_http_is_told_from_tls() {
    let (mut near, far) = loopback().await;
    near.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let error = why(self_signed().accept(far).await);
    assert_eq!(error, HandshakeError::NotTls);
    assert!(error.to_string().contains("plain HTTP"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_is_given_up() {
    let (_silent, far) = tokio::io::duplex(64);
    let error = self_signed().accept(far).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "TLS handshake failed: not done within 10 s");
}
