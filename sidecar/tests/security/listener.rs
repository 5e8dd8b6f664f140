//! TLS of the listener: on unless turned off, both protocols by ALPN, and every kind of exchange as over plain TCP.

use crate::child::{Process, empty, engine};
use crate::common::{
    APIS, Ask, Opened, Protocol, Raw, Rig, Sidecar, content, eventually, reserve_port, within,
};
use crate::pki::{Authority, Folder, plain_client, verifier};
use crate::visitor::{ANY, client, enter, is_served, shown, speaking, trusting, trusting_with};
use kvferry_emulator::{Faults, Speeds};
use rustls::crypto::ring::{self, cipher_suite};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A rig whose listener does TLS.
pub(crate) async fn rig(flags: &[&str]) -> Rig {
    let (prefill, decode) = (engine().await, engine().await);
    let flags = [&["--secure-serving"], flags].concat();
    let sidecar = Sidecar::start(decode.addr().port(), &flags);
    Rig { prefill, decode, sidecar }
}

#[tokio::test]
async fn without_a_flag_the_listener_does_tls_with_a_certificate_of_its_own() {
    let (prefill, decode) = (engine().await, engine().await);
    let (port, _reserved) = reserve_port();
    let decoder = format!("--model-server-port={}", decode.addr().port());
    let process = Process::start_as(port, &[], &[&decoder]).await;
    let to = process.address;
    let certificate = shown(to).await;
    assert!(memchr::memmem::find(&certificate, b"llm-d").is_some());
    // Who pins it can be strict about it.
    let strict = speaking(plain_client(verifier(certificate), &[&TLS13]), ANY);
    let (mut client, _) = client(to, &strict).await;
    client.send(Ask::get("/health")).await.ok();
    let ask = Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&prefill.host_port());
    client.send(ask).await.ok();
    drop(client);
    empty([&prefill, &decode]).await;
    let listening = process.logged("listening").await;
    assert_eq!(listening["fields"]["tls"], true);
    process.end().await;
}

#[tokio::test]
async fn the_protocol_is_what_the_client_prefers_and_both_answer_as_plain_http_does() {
    let secure = rig(&[]).await;
    let plain = Sidecar::start(secure.decode.addr().port(), &[]);
    for (offered, expected) in [
        (ANY, Protocol::Http2),
        (&[b"h2".as_slice()][..], Protocol::Http2),
        (&[b"http/1.1".as_slice()], Protocol::Http1),
        (&[], Protocol::Http1),
    ] {
        let (mut client, chosen) = client(secure.address(), &speaking(trusting(), offered)).await;
        assert_eq!(chosen, expected, "{offered:?}");
        for route in APIS {
            for stream in [false, true] {
                for ask in
                    [Ask::post(route.path, route.body(stream)), secure.ask(route.path, route.body(stream))]
                {
                    let ask = ask.header("x-request-id", "same");
                    let names = ["cached_tokens", "cache_read_input_tokens", "input_tokens"];
                    let reference = content(&ask.clone().send(plain.address()).await.ok(), &names);
                    assert_eq!(content(&client.send(ask).await.ok(), &names), reference, "{}", route.path);
                }
            }
        }
        let large = client.send(Ask::new("PUT", "/emulator/echo", vec![b'x'; 500_000])).await.ok();
        assert_eq!(large.json()["body"].as_str().unwrap().len(), 500_000);
        client.send(secure.ask(APIS[0].path, "[")).await.is_error(400, "malformed_body", "invalid JSON");
    }
    plain.end().await;
    secure.end().await;
}

#[tokio::test]
async fn http2_streams_run_side_by_side_on_one_connection() {
    let rig = rig(&[]).await;
    rig.decode.set_speeds(Speeds { itl_ms: 2, ..Speeds::default() });
    let (mut client, _) = client(rig.address(), &speaking(trusting(), ANY)).await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        let ask = rig.ask(APIS[0].path, APIS[0].value("go on", 50, true).to_string());
        answers.push(Opened::new(client.begin(ask).await.unwrap(), None));
    }
    for answer in answers {
        let answer = answer.whole().await.unwrap().ok();
        assert!(answer.text().ends_with("data: [DONE]\n\n"));
    }
    drop(client);
    assert_eq!(rig.end().await.consumed, 8);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    for protocols in [ANY, &[b"http/1.1"]] {
        let rig = rig(&[]).await;
        rig.decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
        let (mut client, _) = client(rig.address(), &speaking(trusting(), protocols)).await;
        let ask = rig.ask(APIS[0].path, APIS[0].body(true));
        let waiting = tokio::spawn(async move { client.begin(ask).await.is_ok() });
        eventually("decode hangs", || rig.decode.faults() == Faults::default()).await;
        waiting.abort();
        let decode = rig.prefill.state().totals;
        assert_eq!(decode.releases_after_read, 0);
        let counts = rig.end().await;
        assert_eq!((counts.consumed, counts.released), (0, 1));
    }
}

#[tokio::test]
async fn an_upgrade_works_under_tls() {
    let rig = rig(&[]).await;
    let mut stream = enter(rig.address(), &speaking(trusting(), &[b"http/1.1"])).await.unwrap();
    let request =
        "GET /emulator/upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("the answer's head", stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let mut back = [0; 5];
    stream.write_all(b"hello").await.unwrap();
    within("the echo", stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"hello");
    drop(stream);
    rig.end().await;
}

#[tokio::test]
async fn plain_http_is_not_served_where_tls_is() {
    let rig = rig(&[]).await;
    for bytes in ["GET /health HTTP/1.1\r\nhost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut raw = Raw::connect(rig.address()).await;
        raw.write(bytes).await;
        let said = raw.rest().await;
        assert!(!said.contains("HTTP/1.1 200"), "{said:?}");
    }
    assert!(is_served(rig.address(), &speaking(trusting(), ANY)).await);
    rig.end().await;
}

#[tokio::test]
async fn who_never_finishes_the_handshake_keeps_nobody_waiting_not_even_the_end() {
    let rig = rig(&["--workers=1"]).await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        let mut raw = Raw::connect(rig.address()).await;
        // The beginning of a hello: a handshake record of 256 bytes.
        raw.write(b"\x16\x03\x01\x01\x00\x01").await;
        silent.push(raw);
    }
    assert!(is_served(rig.address(), &speaking(trusting(), ANY)).await);
    // Ends only if the sidecar stops within a few seconds.
    rig.end().await;
    for mut raw in silent {
        assert_eq!(raw.rest().await, "");
    }
}

#[tokio::test]
async fn the_lowest_version_is_as_configured() {
    for (flags, old_is_served) in [
        (&[][..], true),
        (&["--tls-min-version=VersionTLS12"], true),
        (&["--tls-min-version=VersionTLS13"], false),
    ] {
        let rig = rig(flags).await;
        let served = is_served(rig.address(), &speaking(trusting_with(&[&TLS12]), ANY)).await;
        assert_eq!(served, old_is_served, "{flags:?}");
        let stream = enter(rig.address(), &speaking(trusting(), ANY)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        drop(stream);
        rig.end().await;
    }
}

#[tokio::test]
async fn tls_1_2_offers_the_configured_suites_and_no_others() {
    let rig = rig(&["--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]).await;
    for (suite, served) in [
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, true),
        (cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false),
    ] {
        let mut provider = ring::default_provider();
        provider.cipher_suites = vec![suite];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(verifier_of(&rig).await)
            .with_no_client_auth();
        assert_eq!(is_served(rig.address(), &speaking(config, ANY)).await, served, "{suite:?}");
    }
    rig.end().await;
}

async fn verifier_of(rig: &Rig) -> Arc<dyn rustls::client::danger::ServerCertVerifier> {
    verifier(shown(rig.address()).await)
}

#[tokio::test]
async fn the_directorys_certificate_is_shown_on_every_rank() {
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(&["localhost"]));
    let directory = format!("--cert-path={}", folder.path().display());
    let rig = rig(&[&directory]).await;
    let strict = speaking(plain_client(authority.verifier(), &[&TLS12, &TLS13]), ANY);
    let (mut client, _) = client(rig.address(), &strict).await;
    client.send(rig.ask(APIS[0].path, APIS[0].body(false))).await.ok();
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn a_stop_lets_streams_under_tls_end() {
    for protocols in [ANY, &[b"http/1.1"]] {
        let mut rig = rig(&[]).await;
        rig.decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
        let (mut client, _) = client(rig.address(), &speaking(trusting(), protocols)).await;
        let ask = rig.ask(APIS[0].path, APIS[0].value("go on", 100, true).to_string());
        let mut answer = Opened::new(client.begin(ask).await.unwrap(), Some(client));
        answer.until("data: ").await;
        let (counts, answer) = tokio::join!(rig.sidecar.stop(crate::common::PATIENCE), answer.whole());
        assert!(answer.unwrap().text().ends_with("data: [DONE]\n\n"));
        assert_eq!(counts.consumed, 1);
        empty([&rig.prefill, &rig.decode]).await;
    }
}

#[tokio::test]
async fn the_metrics_port_can_do_tls_of_its_own() {
    let decode = engine().await;
    let authority = Authority::new("ours");
    let folder = Folder::with(&authority.server(&["localhost"]));
    let (port, _reserved) = reserve_port();
    let flags = [format!("--metrics-port={port}"), format!("--metrics-cert-dir={}", folder.path().display())];
    let process =
        Process::start(decode.addr().port(), &flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let to = ([127, 0, 0, 1], port).into();
    let strict = speaking(plain_client(authority.verifier(), &[&TLS13]), ANY);
    for (path, says) in
        [("/live", "true"), ("/ready", "true"), ("/metrics", "llm_d_disagg_sidecar_requests_total")]
    {
        let (mut client, protocol) = client(to, &strict).await;
        assert_eq!(protocol, Protocol::Http1, "probes and scrapers need no other");
        assert!(client.send(Ask::get(path)).await.ok().text().contains(says));
    }
    // Whoever speaks plain HTTP gets no answer.
    let mut raw = Raw::connect(to).await;
    raw.write("GET /live HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(!raw.rest().await.contains("200 OK"));
    // And the data port is as it was configured.
    Ask::get("/health").send(process.address).await.ok();
    process.end().await;
}
