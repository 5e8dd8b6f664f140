//! Client certificates: who has one of the right authority comes in, nobody else.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvferry_tls::{HandshakeError, LegOptions, LegTls, ListenerOptions, ListenerTls, late_refusal};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{CertificateError, ClientConfig, HandshakeKind};
use tokio::io::AsyncReadExt;

use super::common::*;

/// A listener that requires certificates of `clients`.
fn guarded(server: &Folder, clients: &Authority) -> ListenerTls {
    let client_ca = Some(server.write("clients.crt", &clients.pem()));
    let cert_dir = Some(server.path());
    ListenerTls::start(ListenerOptions { cert_dir, client_ca, ..ListenerOptions::default() }).unwrap()
}

fn leg(ca: PathBuf, client_cert_dir: Option<PathBuf>) -> LegTls {
    LegTls::start(LegOptions { ca: Some(ca), client_cert_dir, ..LegOptions::default() }).unwrap()
}

struct World {
    servers: Authority,
    clients: Authority,
    server: Folder,
    ca: PathBuf,
}

fn world() -> World {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let server = Folder::with(&servers.server(&["localhost"]));
    let ca = server.write("servers.crt", &servers.pem());
    World { servers, clients, server, ca }
}

#[tokio::test]
async fn a_leg_with_a_certificate_of_the_right_authority_comes_in() {
    let world = world();
    let listener = guarded(&world.server, &world.clients);
    let pair = world.clients.client();
    let own = Folder::with(&pair);
    let (server, _) = meet(&listener, &leg(world.ca, Some(own.path())), "localhost").await;
    assert_eq!(shown(server.get_ref().1), pair.der);
}

#[tokio::test]
async fn a_leg_without_a_certificate_is_refused_and_told_so() {
    let world = world();
    let listener = guarded(&world.server, &world.clients);
    let (server, client) = shake(&listener, &leg(world.ca, None), "localhost").await;
    let error = why(server);
    assert_eq!(error, HandshakeError::NoCertificate);
    assert!(error.to_string().contains("requires one"));
    assert!(told(client).await.contains("CertificateRequired"));
}

#[tokio::test]
async fn a_leg_with_a_strangers_certificate_is_refused() {
    let world = world();
    let listener = guarded(&world.server, &world.clients);
    let own = Folder::with(&world.servers.client());
    let (server, client) = shake(&listener, &leg(world.ca, Some(own.path())), "localhost").await;
    assert_eq!(why(server), HandshakeError::Refused(CertificateError::UnknownIssuer));
    assert!(told(client).await.contains("UnknownCA"));
}

#[tokio::test]
async fn a_certificate_for_servers_does_not_let_a_client_in() {
    let world = world();
    let listener = guarded(&world.server, &world.clients);
    let own = Folder::with(&world.clients.server(&["localhost"]));
    let (server, client) = shake(&listener, &leg(world.ca, Some(own.path())), "localhost").await;
    assert!(matches!(why(server), HandshakeError::Refused(CertificateError::InvalidPurposeContext { .. })));
    assert!(told(client).await.contains("UnsupportedCertificate"));
}

#[tokio::test]
async fn a_listener_with_its_self_signed_certificate_can_require_clients_to_show_theirs() {
    let clients = Authority::new("clients");
    let own = Folder::with(&clients.client());
    let listener = ListenerTls::start(ListenerOptions {
        client_ca: Some(own.write("clients.crt", &clients.pem())),
        ..ListenerOptions::default()
    })
    .unwrap();
    let known = LegTls::start(LegOptions {
        skip_verify: true,
        client_cert_dir: Some(own.path()),
        ..LegOptions::default()
    })
    .unwrap();
    meet(&listener, &known, "localhost").await;
    assert_eq!(why(shake(&listener, &unverified(), "localhost").await.0), HandshakeError::NoCertificate);
}

#[tokio::test]
async fn a_certificate_of_ours_is_no_hindrance_where_none_is_asked_for() {
    let world = world();
    let own = Folder::with(&world.clients.client());
    let (server, _) = meet(&serving(&world.server), &leg(world.ca, Some(own.path())), "localhost").await;
    assert!(server.get_ref().1.peer_certificates().is_none());
}

#[tokio::test]
async fn clients_show_their_certificate_on_every_connection() {
    let world = world();
    let listener = guarded(&world.server, &world.clients);
    for version in [&TLS12, &TLS13] {
        let pair = world.clients.client();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(world.servers.verifier())
            .with_client_auth_cert(vec![pair.der], key)
            .unwrap();
        let client = Arc::new(client);
        for _ in 0..3 {
            let (server, client) = shake_with(&listener, &client, "localhost").await;
            let (mut server, mut client) = (server.unwrap(), client.unwrap());
            converse(&mut server, &mut client).await.unwrap();
            assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn with_tls_1_2_too_a_client_without_a_certificate_is_refused() {
    let world = world();
    let listener = guarded(&world.server, &world.clients);
    let client = Arc::new(plain_client(world.servers.verifier(), &[&TLS12]));
    let (server, client) = shake_with(&listener, &client, "localhost").await;
    assert_eq!(why(server), HandshakeError::NoCertificate);
    assert!(client.is_err());
}

/// What a refused leg hears at its first read, and that it is known for what it is.
async fn told(client: io::Result<Client>) -> String {
    let mut client = client.unwrap();
    let error = client.read(&mut [0]).await.unwrap_err();
    let meaning = late_refusal(&error).unwrap();
    assert!(matches!(meaning, HandshakeError::WantsCertificate { .. }));
    meaning.to_string()
}
