//! Mutual TLS: the listener asks clients who they are, and legs say who we are.

use std::sync::Arc;

use crate::common::{APIS, Ask, Sidecar};
use crate::front::{Front, VERSIONS, config};
use crate::legs::{World, hands_over};
use crate::listener::rig;
use crate::pki::{Authority, Folder, Pair, eventually};
use crate::visitor::{client, is_served, speaking};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};

/// Fronts that want certificates of one authority, and engines behind them.
async fn guarded(
    world: &World,
    clients: &Authority,
    version: &'static SupportedProtocolVersion,
) -> [Front; 2] {
    let config = || config(&world.authority.server(&["localhost"]), Some(clients), &[version]);
    [Front::with(config(), world.prefill.addr()).await, Front::with(config(), world.decode.addr()).await]
}

#[tokio::test]
async fn each_leg_shows_its_own_certificate() {
    for version in VERSIONS {
        let world = World::start().await;
        let clients = Authority::new("sidecars");
        let [prefill, decode] = guarded(&world, &clients, version).await;
        let (for_prefill, for_decode) = (clients.client(), clients.client());
        let (one, two) = (Folder::with(&for_prefill), Folder::with(&for_decode));
        let flags = [
            "--enable-tls=prefiller,decoder".to_owned(),
            world.trust(),
            format!("--prefiller-client-cert-path={}", one.path().display()),
            format!("--decoder-client-cert-path={}", two.path().display()),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let sidecar = Sidecar::start(decode.port(), &flags);
        hands_over(&sidecar, &prefill.target()).await;
        for (front, pair) in [(&prefill, &for_prefill), (&decode, &for_decode)] {
            let met = front.met();
            assert!(!met.is_empty());
            assert!(met.iter().all(|met| met.certificate.as_ref() == Some(&pair.der)));
        }
        world.end(sidecar).await;
    }
}

#[tokio::test]
async fn a_leg_without_the_certificate_that_its_engine_wants_is_a_tls_error_that_says_so() {
    for version in VERSIONS {
        let world = World::start().await;
        let clients = Authority::new("sidecars");
        let [prefill, decode] = guarded(&world, &clients, version).await;
        let strange = Folder::with(&Authority::new("somebody").client());
        let wrong = format!("--prefiller-client-cert-path={}", strange.path().display());
        let trust = world.trust();
        for flags in [&[][..], &[wrong.as_str()]] {
            let flags = [&["--enable-tls=prefiller", trust.as_str()], flags].concat();
            let sidecar = Sidecar::start(world.decode.addr().port(), &flags);
            let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.target());
            let answer = ask.send(sidecar.address()).await;
            answer.is_error(502, "prefill_tls", "--prefiller-client-cert-path");
            sidecar.end().await;
        }
        let sidecar = Sidecar::start(decode.port(), &["--enable-tls=decoder", &world.trust()]);
        for ask in [
            Ask::get("/v1/models"),
            Ask::post(APIS[0].path, APIS[0].body(true)),
            Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&world.prefill.host_port()),
        ] {
            let answer = ask.send(sidecar.address()).await;
            answer.is_error(502, "decode_tls", "--decoder-client-cert-path");
        }
        assert!(prefill.met().is_empty() && decode.met().is_empty());
        assert!(world.decode.requests().is_empty());
        // What prefill holds for that last request nobody could release: the decode engine is out of reach.
        world.prefill.restart();
        world.end(sidecar).await;
    }
}

#[tokio::test]
async fn a_legs_new_certificate_is_shown_on_new_connections() {
    let world = World::start().await;
    let clients = Authority::new("sidecars");
    let [prefill, _decode] = guarded(&world, &clients, &TLS13).await;
    let (old, new) = (clients.client(), clients.client());
    let folder = Folder::with(&old);
    let own = format!("--prefiller-client-cert-path={}", folder.path().display());
    let flags = ["--enable-tls=prefiller", &world.trust(), &own];
    let sidecar = Sidecar::start(world.decode.addr().port(), &flags);
    let ask = || Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.target());
    ask().send(sidecar.address()).await.ok();
    folder.put(&new);
    eventually(async || {
        // No connection survives that, so the next request needs a new one.
        world.prefill.restart();
        ask().send(sidecar.address()).await.ok();
        prefill.met().last().unwrap().certificate.as_ref() == Some(&new.der)
    })
    .await;
    assert!(prefill.met().iter().any(|met| met.certificate.as_ref() == Some(&old.der)));
    world.end(sidecar).await;
}

/// A client with this certificate, if any.
fn bearing(
    servers: &Authority,
    pair: Option<&Pair>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(servers.verifier());
    let config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![pair.der.clone()], key).unwrap()
        }
    };
    speaking(config, &[b"http/1.1"])
}

#[tokio::test]
async fn the_listener_serves_nobody_without_a_certificate_of_the_right_authority() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let folder = Folder::with(&servers.server(&["localhost"]));
    let authority = folder.write("clients.crt", &clients.pem());
    let flags = [
        format!("--cert-path={}", folder.path().display()),
        format!("--client-ca-path={}", authority.display()),
    ];
    let rig = rig(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let known = clients.client();
    let strange = Authority::new("somebody").client();
    for version in VERSIONS {
        let config = |pair| bearing(&servers, pair, version);
        assert!(!is_served(rig.address(), &config(None)).await);
        assert!(!is_served(rig.address(), &config(Some(&strange))).await);
        let (mut client, _) = client(rig.address(), &config(Some(&known))).await;
        client.send(Ask::get("/health")).await.ok();
        client.send(rig.ask(APIS[0].path, APIS[0].body(true))).await.ok();
    }
    assert_eq!(rig.decode.requests().len(), VERSIONS.len());
    rig.end().await;
}

#[tokio::test]
async fn clients_of_a_new_authority_come_in_once_its_file_is_replaced() {
    let (servers, old, new) = (Authority::new("servers"), Authority::new("old"), Authority::new("new"));
    let folder = Folder::with(&servers.server(&["localhost"]));
    let authority = folder.write("clients.crt", &old.pem());
    let flags = [
        format!("--cert-path={}", folder.path().display()),
        format!("--client-ca-path={}", authority.display()),
    ];
    let rig = rig(&flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let config = |authority: &Authority| bearing(&servers, Some(&authority.client()), &TLS12);
    assert!(is_served(rig.address(), &config(&old)).await);
    assert!(!is_served(rig.address(), &config(&new)).await);
    folder.write("clients.crt", &new.pem());
    eventually(async || is_served(rig.address(), &config(&new)).await).await;
    assert!(!is_served(rig.address(), &config(&old)).await);
    rig.end().await;
}
