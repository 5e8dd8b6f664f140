//! Whom a leg trusts, what it tells the peer, and what it says when it does not trust.

use std::sync::Arc;

use kvferry_tls::{HandshakeError, LegOptions, LegTls, ListenerTls};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, HandshakeKind, ServerConfig};
use tokio::io::AsyncWriteExt;

use super::common::*;

/// An authority, a listener with a certificate of it for `names`, and a leg that trusts it.
fn trusted(names: &[&str]) -> (Folder, ListenerTls, LegTls) {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(names));
    let bundle = folder.write("ca.crt", &authority.pem());
    let listener = serving(&folder);
    (folder, listener, trusting(bundle))
}

#[tokio::test]
async fn a_peer_signed_by_the_bundles_authority_is_trusted() {
    let (_folder, listener, leg) = trusted(&["prefill.example"]);
    let (server, client) = meet(&listener, &leg, "prefill.example").await;
    assert_eq!(server.get_ref().1.server_name(), Some("prefill.example"));
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()));
}

#[tokio::test]
async fn every_authority_of_a_bundle_counts() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let folder = Folder::with(&ours.server(&["localhost"]));
    let bundle = folder.write("ca.crt", &format!("# two of them\n{}\n{}", other.pem(), ours.pem()));
    meet(&serving(&folder), &trusting(bundle), "localhost").await;
}

#[tokio::test]
async fn addresses_are_verified_and_not_sent_as_names() {
    let (_folder, listener, leg) = trusted(&["10.0.0.7", "2001:db8::7", "fe80::1"]);
    for host in
        ["10.0.0.7", "2001:db8::7", "[2001:db8::7]", "[2001:DB8:0::7]", "fe80::1%eth0", "[fe80::1%eth0]"]
    {
        let (server, _) = meet(&listener, &leg, host).await;
        assert_eq!(server.get_ref().1.server_name(), None, "{host}");
    }
    for host in ["10.0.0.8", "[2001:db8::8]", "localhost"] {
        assert!(shake(&listener, &leg, host).await.1.is_err(), "{host}");
    }
}

#[tokio::test]
async fn a_full_stop_at_the_end_of_a_name_means_nothing() {
    let (_folder, listener, leg) = trusted(&["prefill.pool.svc.cluster.local"]);
    let (server, _) = meet(&listener, &leg, "prefill.pool.svc.cluster.local.").await;
    assert_eq!(server.get_ref().1.server_name(), Some("prefill.pool.svc.cluster.local"));
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_with_both_names() {
    let (_folder, listener, leg) = trusted(&["prefill-0.example"]);
    let message = why(shake(&listener, &leg, "prefill-1.example").await.1).to_string();
    assert!(message.contains("prefill-0.example") && message.contains("prefill-1.example"), "{message}");
}

#[tokio::test]
async fn a_peer_signed_by_nobody_known_is_refused_with_the_remedy() {
    let stranger = Authority::new("stranger");
    let folder = Folder::with(&stranger.server(&["localhost"]));
    let ours = folder.write("ca.crt", &Authority::new("ours").pem());
    let error = why(shake(&serving(&folder), &trusting(ours), "localhost").await.1);
    assert_eq!(error, HandshakeError::Refused(CertificateError::UnknownIssuer));
    let message = error.to_string();
    assert!(message.contains("--leg-ca-path") && message.contains("--tls-insecure-skip-verify"), "{message}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.expired("localhost"));
    let bundle = folder.write("ca.crt", &authority.pem());
    let error = why(shake(&serving(&folder), &trusting(bundle), "localhost").await.1);
    assert!(matches!(error, HandshakeError::Refused(CertificateError::ExpiredContext { .. })), "{error:?}");
}

#[tokio::test]
async fn without_verification_any_certificate_will_do() {
    let expired = Folder::with(&Authority::new("stranger").expired("somebody.else"));
    for listener in [self_signed(), serving(&expired)] {
        for host in ["prefill.example", "10.0.0.7", "[2001:db8::7]"] {
            meet(&listener, &unverified(), host).await;
        }
    }
}

#[tokio::test]
async fn without_verification_the_peer_must_still_hold_the_certificates_key() {
    let authority = Authority::new("ours");
    let (shown, held) = (authority.server(&["localhost"]), authority.server(&["localhost"]));
    let key = PrivateKeyDer::from_pem_slice(held.key.as_bytes()).unwrap();
    let impostor = CertifiedKey::new(vec![shown.der], ring::sign::any_supported_type(&key).unwrap());
    let impostor = Arc::new(SingleCertAndKey::from(impostor));
    for version in [&TLS12, &TLS13] {
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(impostor.clone());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let (near, far) = loopback().await;
        let (leg, _) = tokio::join!(unverified().connect("localhost", near), acceptor.accept(far));
        assert_eq!(why(leg), HandshakeError::Refused(CertificateError::BadSignature));
    }
}

#[tokio::test]
async fn legs_keep_to_their_version_and_suites() {
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256".to_owned();
    let leg = |min_version: &str, cipher_suites: &[String]| {
        LegTls::start(LegOptions {
            skip_verify: true,
            min_version: min_version.to_owned(),
            cipher_suites: cipher_suites.to_vec(),
            ..LegOptions::default()
        })
        .unwrap()
    };
    let pair = Authority::new("ours").server(&["localhost"]);
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let old = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.der], key)
        .unwrap();
    let old = tokio_rustls::TlsAcceptor::from(Arc::new(old));

    let (near, far) = loopback().await;
    let leg_12 = leg("", std::slice::from_ref(&suite));
    let (client, _) = tokio::join!(leg_12.connect("localhost", near), old.accept(far));
    let agreed = client.unwrap().get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(agreed.as_str(), Some(suite.as_str()));

    let (near, far) = loopback().await;
    let leg_13 = leg("VersionTLS13", &[]);
    let (client, _) = tokio::join!(leg_13.connect("localhost", near), old.accept(far));
    assert!(matches!(why(client), HandshakeError::NothingInCommon { .. }));

    meet(&self_signed(), &leg_13, "localhost").await;
}

#[tokio::test]
async fn legs_resume_their_sessions() {
    let (_folder, listener, leg) = trusted(&["localhost", "127.0.0.1"]);
    for host in ["localhost", "127.0.0.1"] {
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (_, client) = meet(&listener, &leg, host).await;
            assert_eq!(client.get_ref().1.handshake_kind(), Some(expected), "{host}");
        }
    }
}

#[tokio::test]
async fn hosts_that_no_certificate_could_be_for_are_refused() {
    for host in ["", "two words", "a..b", "[10.0.0.7", "2001:db8::zz"] {
        let (near, _far) = loopback().await;
        let error = unverified().connect(host, near).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{host}");
        assert_eq!(why::<()>(Err(error)), HandshakeError::BadName { host: host.to_owned() });
    }
}

#[tokio::test]
async fn an_engine_that_speaks_plain_http_is_told_from_tls() {
    let (near, mut far) = loopback().await;
    far.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert_eq!(why(unverified().connect("localhost", near).await), HandshakeError::NotTls);
}

#[tokio::test]
async fn a_connection_cut_in_the_handshake_keeps_the_networks_reason() {
    let (near, far) = loopback().await;
    let (leg, ()) = tokio::join!(unverified().connect("localhost", near), async {
        let mut far = far;
        // All of the hello is taken, so that the end is an orderly one.
        let _ = tokio::io::AsyncReadExt::read(&mut far, &mut [0; 4096]).await;
        drop(far);
    });
    assert_eq!(leg.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stalls_is_given_up() {
    let (near, _silent) = tokio::io::duplex(4096);
    let error = unverified().connect("localhost", near).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(why::<()>(Err(error)), HandshakeError::Stalled);
}
