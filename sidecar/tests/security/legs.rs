//! Legs that are dialled with https, each by its own word in `--enable-tls`.

use std::collections::HashSet;
use std::sync::Mutex;

use crate::child::{Process, empty, engine};
use crate::common::{APIS, Ask, Raw, Scripted, Sidecar, json_answer, reserve_port};
use crate::front::{Front, Met};
use crate::pki::{Authority, Folder, eventually};
use kvferry_emulator::Emulator;

/// Two engines, each behind a front with a certificate of one authority, and that authority's file.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) folder: Folder,
    pub(crate) prefill: Emulator,
    pub(crate) decode: Emulator,
    pub(crate) prefill_front: Front,
    pub(crate) decode_front: Front,
}

impl World {
    pub(crate) async fn start() -> Self {
        let authority = Authority::new("engines");
        let folder = Folder::new();
        folder.write("ca.crt", &authority.pem());
        let (prefill, decode) = (engine().await, engine().await);
        let prefill_front = Front::showing(&authority.server(&["localhost"]), prefill.addr()).await;
        let decode_front = Front::showing(&authority.server(&["localhost"]), decode.addr()).await;
        Self { authority, folder, prefill, decode, prefill_front, decode_front }
    }

    /// The flag that makes legs trust the authority.
    pub(crate) fn trust(&self) -> String {
        format!("--leg-ca-path={}", self.folder.file("ca.crt").display())
    }

    pub(crate) async fn end(self, sidecar: Sidecar) {
        empty([&self.prefill, &self.decode]).await;
        sidecar.end().await;
    }
}

/// A handoff of every API, streamed and not, is served.
pub(crate) async fn hands_over(sidecar: &Sidecar, target: &str) {
    for route in APIS {
        for stream in [false, true] {
            Ask::post(route.path, route.body(stream)).prefill(target).send(sidecar.address()).await.ok();
        }
    }
}

#[tokio::test]
async fn both_legs_can_be_dialled_with_https() {
    let world = World::start().await;
    let sidecar =
        Sidecar::start(world.decode_front.port(), &["--enable-tls=prefiller,decoder", &world.trust()]);
    hands_over(&sidecar, &world.prefill_front.target()).await;
    assert_eq!(sidecar.ledger().consumed, 10);
    for front in [&world.prefill_front, &world.decode_front] {
        let met = front.met();
        assert!(!met.is_empty());
        // One connection serves many requests, and engines are asked for HTTP/1.1 only.
        assert!(met.len() < 10, "{met:?}");
        let expected = Met {
            name: Some("localhost".to_owned()),
            protocol: Some(b"http/1.1".to_vec()),
            certificate: None,
        };
        assert!(met.iter().all(|met| *met == expected), "{met:?}");
    }
    world.end(sidecar).await;
}

#[tokio::test]
async fn everything_that_passes_through_goes_over_the_decode_legs_tls() {
    let world = World::start().await;
    let sidecar = Sidecar::start(world.decode_front.port(), &["--enable-tls=decoder", &world.trust()]);
    let to = sidecar.address();
    Ask::get("/v1/models").send(to).await.ok();
    Ask::post(APIS[0].path, APIS[0].body(true)).send(to).await.ok();
    let large = Ask::new("PUT", "/emulator/echo", vec![b'x'; 500_000]).send(to).await.ok();
    assert_eq!(large.json()["body"].as_str().unwrap().len(), 500_000);
    let mut raw = Raw::connect(to).await;
    raw.write("GET /emulator/upgrade HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    raw.write("hello").await;
    assert_eq!(raw.until("hello").await, "hello");
    drop(raw);
    assert!(!world.decode_front.met().is_empty());
    world.end(sidecar).await;
}

#[tokio::test]
async fn a_leg_that_is_not_named_is_dialled_plain() {
    let world = World::start().await;
    let sidecar = Sidecar::start(world.decode.addr().port(), &["--enable-tls=prefiller", &world.trust()]);
    hands_over(&sidecar, &world.prefill_front.target()).await;
    sidecar.end().await;

    let sidecar = Sidecar::start(world.decode_front.port(), &["--enable-tls=decoder", &world.trust()]);
    hands_over(&sidecar, &world.prefill.host_port()).await;
    world.end(sidecar).await;
}

#[tokio::test]
async fn the_flags_of_older_releases_name_the_same_legs() {
    let world = World::start().await;
    let flags = [
        "--prefiller-use-tls",
        "--decoder-use-tls=true",
        "--prefiller-tls-insecure-skip-verify",
        "--decoder-tls-insecure-skip-verify",
    ];
    let sidecar = Sidecar::start(world.decode_front.port(), &flags);
    hands_over(&sidecar, &world.prefill_front.target()).await;
    assert!(!world.prefill_front.met().is_empty() && !world.decode_front.met().is_empty());
    world.end(sidecar).await;
}

#[tokio::test]
async fn an_engine_reached_by_its_address_shows_a_certificate_for_that_address() {
    let world = World::start().await;
    let front = Front::showing(&world.authority.server(&["127.0.0.1"]), world.prefill.addr()).await;
    let sidecar = Sidecar::start(world.decode.addr().port(), &["--enable-tls=prefiller", &world.trust()]);
    hands_over(&sidecar, &format!("127.0.0.1:{}", front.port())).await;
    assert!(front.met().iter().all(|met| met.name.is_none()), "an address is no server name");
    world.end(sidecar).await;
}

/// Answers the first request of each connection, and at the second closes it.
async fn once_each(answer: &'static str) -> Scripted {
    let served = Mutex::new(HashSet::new());
    Scripted::start(move |mut exchange| {
        let first = served.lock().unwrap().insert(exchange.request.connection);
        async move {
            if first {
                exchange.write(json_answer(200, answer)).await;
            }
            first.then_some(exchange)
        }
    })
    .await
}

#[tokio::test]
async fn a_kept_connection_that_ends_without_a_word_loses_no_request() {
    let world = World::start().await;
    let pair = world.authority.server(&["localhost"]);
    let prefill = once_each(r#"{"kv_transfer_params":{"a":1}}"#).await;
    let decode = once_each("{}").await;
    let [prefill_front, decode_front] =
        [Front::showing(&pair, prefill.address()).await, Front::showing(&pair, decode.address()).await];
    let flags = ["--enable-tls=prefiller,decoder", &world.trust(), "--workers=1"];
    let sidecar = Sidecar::start(decode_front.port(), &flags);
    for _ in 0..4 {
        let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill_front.target());
        ask.send(sidecar.address()).await.ok();
        // Without a body: one that flows from the client exists only once.
        Ask::get("/v1/models").send(sidecar.address()).await.ok();
    }
    // Each was met a second time on the connection on which it had answered.
    for engine in [prefill, decode] {
        let mut connections: Vec<usize> =
            engine.requests().iter().map(|request| request.connection).collect();
        let all = connections.len();
        connections.dedup();
        assert!(connections.len() < all, "{connections:?}");
    }
    world.end(sidecar).await;
}

#[tokio::test]
async fn encoders_are_dialled_with_https_by_a_word_of_their_own() {
    const BODY: &str =
        r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]}"#;
    let world = World::start().await;
    let (encoder, decode) = (
        Scripted::answering(json_answer(200, "{}")).await,
        Scripted::answering(json_answer(200, r#"{"done":1}"#)).await,
    );
    let known = Front::showing(&world.authority.server(&["localhost"]), encoder.address()).await;
    let stranger = Authority::new("somebody").server(&["localhost"]);
    let unknown = Front::showing(&stranger, encoder.address()).await;
    let ask = |front: &Front| Ask::post(APIS[0].path, BODY).header("x-encoder-hosts-ports", &front.target());
    let trust = world.trust();
    let usual = ["--ec-connector=ec-example", "--enable-tls=encoder", trust.as_str()];
    let sidecar = Sidecar::start(decode.port(), &usual);
    ask(&known).send(sidecar.address()).await.ok();
    assert_eq!((known.met().len(), encoder.requests().len()), (1, 1));
    let refused = ask(&unknown).send(sidecar.address()).await;
    refused.is_error(502, "encode_failed", "no trusted authority signed it");
    assert_eq!((encoder.requests().len(), decode.requests().len()), (1, 1));
    sidecar.end().await;

    let skipping = [&usual[..], &["--tls-insecure-skip-verify=encoder"]].concat();
    let sidecar = Sidecar::start(decode.port(), &skipping);
    ask(&unknown).send(sidecar.address()).await.ok();
    world.end(sidecar).await;
}

#[tokio::test]
async fn readiness_looks_at_the_decode_engine_through_its_legs_tls() {
    let world = World::start().await;
    let trust = world.trust();
    for (flags, status, says) in [
        (&["--enable-tls=decoder", trust.as_str()][..], 200, ""),
        (&["--enable-tls=decoder"], 503, "no trusted authority signed it"),
        (&[], 503, "decode engine"),
    ] {
        let ((port, _one), (admin, _two)) = (reserve_port(), reserve_port());
        let usual = [
            "--secure-serving=false".to_owned(),
            "--ready-when-decoder-answers".to_owned(),
            format!("--model-server-port={}", world.decode_front.port()),
            format!("--metrics-port={admin}"),
        ];
        let all: Vec<&str> = usual.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let process = Process::start_as(port, &[], &all).await;
        eventually(async || {
            let answer = Ask::get("/ready").send(([127, 0, 0, 1], admin).into()).await;
            answer.status == status && answer.text().contains(says)
        })
        .await;
        process.end().await;
    }
}
