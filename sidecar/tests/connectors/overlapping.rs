//! Connectors whose legs run side by side: decode waits for prefill in its engine, its answer waits for prefill in the
//! sidecar, and whatever ends one leg ends the other.

use std::sync::Arc;
use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Faults, Role, Speeds};
use tokio::sync::Notify;

use crate::common::{
    APIS, Answer, Ask, LEASE, PREFILLER, Rig, Route, Scripted, Sidecar, chunk, content, eventually,
    json_answer, prompt, reserve_port, sse_head, within,
};
use crate::hosts::own_host;

const ID: &str = "one-id-for-both";

/// The connectors that every test here is about.
const ALL: [Pairing; 3] = [Pairing::Sglang, Pairing::Mooncake, Pairing::MoriIo];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pairing {
    Sglang,
    Mooncake,
    MoriIo,
}

impl Pairing {
    /// A sidecar for a decode engine that takes KV on `notify_port`.
    fn sidecar(self, decode_port: u16, notify_port: u16, more: &[&str]) -> Sidecar {
        let notify_port = format!("--moriio-decode-notify-port={notify_port}");
        let flags: &[&str] = match self {
            Self::Sglang => &["--kv-connector=sglang"],
            Self::Mooncake => &["--kv-connector=mooncake"],
            Self::MoriIo => &[
                "--moriio-write-mode",
                "--moriio-parallel-dispatch",
                "--moriio-local-pod-ip=127.0.0.1",
                &notify_port,
            ],
        };
        Sidecar::start(decode_port, &[flags, more].concat())
    }

    async fn rig(self, flags: &[&str]) -> Rig {
        let prefill = Emulator::start(prefill_engine()).await.unwrap();
        let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
        let sidecar = self.sidecar(decode.addr().port(), decode.notify_port(), flags);
        Rig { prefill, decode, sidecar }
    }

    /// Scripted engines with a sidecar between them.
    async fn scripted(self, prefill: Scripted, decode: Scripted) -> Scripts {
        let bootstrap = Scripted::answering(json_answer(200, r#"{"0":{"engine_id":"e"}}"#)).await;
        let port = format!("--mooncake-bootstrap-port={}", bootstrap.port());
        let sidecar = self.sidecar(decode.port(), 61005, &[&port]);
        Scripts { prefill, decode, sidecar, _bootstrap: bootstrap }
    }
}

/// Where the flags' defaults have the connectors look for a bootstrap server and for handshakes. It keeps KV, and waits,
/// for longer than any test takes.
fn prefill_engine() -> Config {
    let ports = Config { bootstrap_port: 8998, kv_port: 6301, ..engine(Role::Prefill) };
    Config { host: own_host(), abort_timeout: LEASE, ..ports }
}

fn engine(role: Role) -> Config {
    Config { role, rendezvous_timeout: LEASE, kv_lease: LEASE, ..Config::default() }
}

struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
    _bootstrap: Scripted,
}

impl Scripts {
    fn ask(&self, body: &str) -> Ask {
        Ask::post(CHAT.path, body).prefill(&self.prefill.host_port())
    }
}

/// What most tests ask for: its path is not that of a release.
const CHAT: Route = APIS[0];

/// Acts on that route alone, once.
fn once(faults: Faults) -> Faults {
    Faults { path: Some(CHAT.path.into()), times: Some(1), ..faults }
}

/// Everything works afterwards, by a handoff.
async fn works(rig: &Rig) {
    for engine in [&rig.prefill, &rig.decode] {
        engine.set_faults(Faults::default());
        engine.set_speeds(Speeds::default());
    }
    let before = rig.decode.state().totals.pulls;
    rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await.ok();
    assert_eq!(rig.decode.state().totals.pulls, before + 1);
}

#[tokio::test]
async fn every_api_answers_as_one_engine_alone_would() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        for route in APIS {
            for stream in [false, true] {
                let body = route.body(stream);
                let ask = |ask: Ask| ask.header("x-request-id", ID);
                let expected = ask(Ask::post(route.path, body.clone())).send(alone.addr()).await.ok();
                let answer = ask(rig.ask(route.path, body)).send(rig.address()).await.ok();
                let shown = |answer: &Answer| content(answer, &["usage"]);
                assert_eq!(shown(&answer), shown(&expected), "{pairing:?} {} stream={stream}", route.path);
                rig.settled().await;
            }
        }
        let (prefill, decode) = (rig.prefill.state().totals, rig.decode.state().totals);
        assert_eq!((prefill.prefills, decode.pulls, decode.computed_prompts), (10, 10, 0), "{pairing:?}");
        assert_eq!((prefill.expired, prefill.releases_without_read), (0, 0), "{pairing:?}");
        rig.end().await;
    }
}

#[tokio::test]
async fn many_requests_at_once_each_get_their_own_answer() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        let mut answers = Vec::new();
        for n in 0..24 {
            let route = APIS[n % APIS.len()];
            let body = route.value(&format!("request {n}{}", prompt(n * 7)), 9, n % 2 == 0).to_string();
            let expected = Ask::post(route.path, body.clone()).header("x-request-id", ID);
            let expected = content(&expected.send(alone.addr()).await.ok(), &["usage"]);
            let ask = rig.ask(route.path, body).header("x-request-id", ID);
            answers.push((expected, tokio::spawn(ask.send(rig.address()))));
        }
        for (expected, answer) in answers {
            let answer = within("an answer", answer).await.unwrap().ok();
            assert_eq!(content(&answer, &["usage"]), expected, "{pairing:?}");
        }
        assert_eq!(rig.decode.state().totals.computed_prompts, 0);
        rig.end().await;
    }
}

#[tokio::test]
async fn decode_is_sent_beside_prefill_and_its_answer_waits_for_prefills() {
    for pairing in ALL {
        for stream in [false, true] {
            let go = Arc::new(Notify::new());
            let told = Arc::clone(&go);
            let prefill = Scripted::start(move |mut exchange| {
                let told = Arc::clone(&told);
                async move {
                    told.notified().await;
                    exchange.write(json_answer(200, "{}")).await;
                    Some(exchange)
                }
            })
            .await;
            let answered = Arc::new(Notify::new());
            let tell = Arc::clone(&answered);
            let decode = Scripted::start(move |mut exchange| {
                let tell = Arc::clone(&tell);
                async move {
                    if stream {
                        exchange.write(sse_head()).await;
                        exchange.write(chunk("data: 1\n\n")).await;
                        exchange.write(chunk("")).await;
                    } else {
                        exchange.write(json_answer(200, "{\"a\":1}")).await;
                    }
                    tell.notify_one();
                    Some(exchange)
                }
            })
            .await;
            let rig = pairing.scripted(prefill, decode).await;
            let client = tokio::spawn(rig.ask("{}").send(rig.sidecar.address()));
            within("decode answers while prefill does not", answered.notified()).await;
            eventually("prefill was asked", || rig.prefill.requests().len() == 1).await;
            // Long enough for a whole answer to cross this machine.
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(!client.is_finished(), "{pairing:?}: the answer came before prefill was accepted");
            go.notify_one();
            let answer = within("the answer", client).await.unwrap().ok();
            assert_eq!(answer.text(), if stream { "data: 1\n\n" } else { "{\"a\":1}" });
            let counts = rig.sidecar.end().await;
            assert_eq!(counts.consumed, u64::from(pairing != Pairing::Sglang));
        }
    }
}

#[tokio::test]
async fn an_error_of_the_prefill_engine_wins_over_decodes_answer() {
    for pairing in ALL {
        // Decode answers first, and well.
        let (tell, answered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (told, done) = (Arc::clone(&answered), Arc::clone(&tell));
        let prefill = Scripted::start(move |mut exchange| {
            let told = Arc::clone(&told);
            async move {
                told.notified().await;
                exchange.write(json_answer(503, "{\"odd\" : 1}")).await;
                Some(exchange)
            }
        })
        .await;
        let decode = Scripted::start(move |mut exchange| {
            let done = Arc::clone(&done);
            async move {
                exchange.write(sse_head()).await;
                exchange.write(chunk("data: 1\n\n")).await;
                done.notify_one();
                exchange.left().await;
                done.notify_one();
                None
            }
        })
        .await;
        let rig = pairing.scripted(prefill, decode).await;
        let client = tokio::spawn(rig.ask("{}").send(rig.sidecar.address()));
        within("decode answers", tell.notified()).await;
        answered.notify_one();
        let answer = within("the answer", client).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "{\"odd\" : 1}"), "{pairing:?}");
        within("decode is cancelled", tell.notified()).await;
        assert_eq!(
            rig.decode.requests().len(),
            1,
            "nothing is released: a prefill that refused holds nothing"
        );
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn an_error_of_the_prefill_engine_is_passed_on_as_it_is_and_ends_decode() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        for status in [400, 404, 422, 429, 500, 503] {
            let body = format!("{{\"error\": {{\"code\": {status} }} }} \n");
            rig.prefill.set_faults(once(Faults {
                status: Some(status),
                body: Some(body.clone()),
                headers: [("retry-after".to_owned(), "7".to_owned())].into(),
                // Decode waits for it in its engine meanwhile.
                delay_ms: 30,
                ..Faults::default()
            }));
            let answer = rig.ask(CHAT.path, CHAT.body(status % 2 == 0)).send(rig.address()).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (status, body), "{pairing:?}");
            assert_eq!((answer.header("retry-after"), answer.header("x-kvferry-error")), ("7", ""));
            rig.settled().await;
        }
        assert_eq!(rig.decode.state().totals.decodes, 0, "{pairing:?}: no silent local prefill");
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_prefill_engine_that_cannot_be_reached_is_named_and_ends_decode() {
    for pairing in ALL {
        // Its bootstrap server still answers.
        let rig = pairing.rig(&[]).await;
        let target = format!("{}:1", rig.prefill.addr().ip());
        let ask = Ask::post(CHAT.path, CHAT.body(true)).header(PREFILLER, &target);
        ask.send(rig.address()).await.is_error(502, "prefill_unreachable", &target);
        rig.settled().await;
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_prefill_engine_that_hangs_is_waited_for_no_longer_than_allowed() {
    for (pairing, words) in [
        (Pairing::Sglang, "SGLang prefill did not complete before the wait timeout"),
        (Pairing::Mooncake, "did not answer within 300 ms (--prefill-timeout)"),
        (
            Pairing::MoriIo,
            "decode aborted: prefill did not complete within the MoRI-IO parallel-dispatch KV-wait",
        ),
    ] {
        let rig = pairing.rig(&["--prefill-timeout=300ms"]).await;
        for stream in [false, true] {
            rig.prefill.set_faults(once(Faults { hang: true, ..Faults::default() }));
            let answer = rig.ask(CHAT.path, CHAT.body(stream)).send(rig.address()).await;
            answer.is_error(504, "prefill_timeout", words);
            rig.settled().await;
        }
        rig.end().await;
    }
}

#[tokio::test]
async fn a_prefill_answer_that_breaks_off_is_an_error_although_decode_has_the_kv() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        for faults in [
            Faults { reset_before: true, ..Faults::default() },
            Faults { garbage: true, ..Faults::default() },
            Faults { reset_after_bytes: Some(20), ..Faults::default() },
        ] {
            for stream in [false, true] {
                rig.prefill.set_faults(once(faults.clone()));
                let answer = rig.ask(CHAT.path, CHAT.body(stream)).send(rig.address()).await;
                answer.is_error(502, "prefill_broke", &rig.prefill.host_port());
                rig.settled().await;
            }
        }
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_prefill_engine_that_dies_ends_decode() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        // So slow that it dies while it computes.
        rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
        let client = tokio::spawn(rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()));
        eventually("prefill computes", || rig.prefill.state().requests.running == 1).await;
        rig.prefill.restart();
        let answer = within("an answer", client).await.unwrap();
        // Whichever of the two legs tells of it first.
        assert!(matches!(answer.status.as_u16(), 500 | 502), "{pairing:?} {}", answer.text());
        rig.settled().await;
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn an_error_of_the_decode_engine_is_passed_on_as_it_is_and_ends_prefill() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        for slow in [true, false] {
            if slow {
                rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
            } else {
                rig.prefill.set_speeds(Speeds::default());
            }
            for status in [400, 503] {
                rig.decode.set_faults(once(Faults {
                    status: Some(status),
                    body: Some("{\"decode\": 1 }".into()),
                    ..Faults::default()
                }));
                let answer = rig.ask(CHAT.path, CHAT.body(slow)).send(rig.address()).await;
                let said = (answer.status.as_u16(), answer.text());
                assert_eq!(said, (status, "{\"decode\": 1 }".into()), "{pairing:?}");
                rig.settled().await;
            }
        }
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_decode_engine_that_breaks_off_ends_prefill() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        rig.decode.set_faults(once(Faults { reset_before: true, ..Faults::default() }));
        let answer = rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await;
        answer.is_error(502, "decode_broke", "decode engine localhost:");
        rig.settled().await;
        // In the middle of its stream, with the KV long read.
        rig.decode.set_faults(once(Faults { reset_after_bytes: Some(600), ..Faults::default() }));
        let ask = rig.ask(CHAT.path, CHAT.body(true));
        let cut = ask.open(rig.address()).await.unwrap().end().await;
        assert!(!cut.1, "{pairing:?}: the client must see that the answer was cut");
        rig.settled().await;
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_decode_engine_that_cannot_be_reached_ends_prefill() {
    for pairing in ALL {
        // Nobody is left who could tell the prefill engine to let go, but its own limit.
        let limit = Duration::from_millis(300);
        let prefill = Config { abort_timeout: limit, kv_lease: limit, ..prefill_engine() };
        let prefill = Emulator::start(prefill).await.unwrap();
        let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
        let (port, _reserved) = reserve_port();
        let rig = Rig { prefill, decode, sidecar: pairing.sidecar(port, 1, &[]) };
        let answer = rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await;
        answer.is_error(503, "decode_unreachable", "The decode node is not ready");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_prefill_computes_ends_both_legs() {
    for pairing in ALL {
        let rig = pairing.rig(&["--prefill-cancel-grace=50ms"]).await;
        rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
        for (n, stream) in [false, true].into_iter().enumerate() {
            let client = tokio::spawn(rig.ask(CHAT.path, CHAT.body(stream)).try_send(rig.address()));
            eventually("both legs are in their engines", || {
                rig.prefill.state().requests.running == 1 && rig.decode.state().requests.waiting == 1
            })
            .await;
            client.abort();
            rig.settled().await;
            assert_eq!(rig.prefill.state().totals.aborted, n as u64 + 1, "{pairing:?}");
        }
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_decode_has_not_come_for_the_kv_leaves_nothing_behind() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        for stream in [false, true] {
            rig.decode.set_faults(once(Faults { hang: true, ..Faults::default() }));
            let client = tokio::spawn(rig.ask(CHAT.path, CHAT.body(stream)).try_send(rig.address()));
            eventually("prefill offers its KV", || rig.prefill.state().blocks.held.leased > 0).await;
            eventually("decode was asked", || rig.decode.faults() == Faults::default()).await;
            client.abort();
            rig.settled().await;
        }
        assert_eq!(rig.prefill.state().totals.expired, 0);
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_answer_ends_decode() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        rig.decode.set_speeds(Speeds { itl_ms: 60_000, ..Speeds::default() });
        let mut client = rig.ask(CHAT.path, CHAT.body(true)).open(rig.address()).await.unwrap();
        client.until("data: ").await;
        assert_eq!(rig.decode.state().requests.running, 1);
        drop(client);
        rig.settled().await;
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_at_any_moment_leaves_nothing_behind() {
    for pairing in ALL {
        let rig = pairing.rig(&[]).await;
        rig.prefill.set_faults(Faults { delay_ms: 2, path: Some(CHAT.path.into()), ..Faults::default() });
        let mut dice = crate::common::Dice::new(20_261_121);
        for n in 0..60 {
            let ask = rig.ask(CHAT.path, CHAT.body(n % 2 == 0));
            let client = tokio::spawn(ask.try_send(rig.address()));
            tokio::time::sleep(Duration::from_micros(dice.below(9_000))).await;
            client.abort();
        }
        rig.settled().await;
        assert_eq!(rig.prefill.state().totals.expired, 0);
        works(&rig).await;
        rig.end().await;
    }
}

#[tokio::test]
async fn another_candidate_takes_over_and_the_first_attempts_legs_are_ended() {
    for pairing in ALL {
        let rig = pairing.rig(&["--prefill-failure-policy=retry-other", "--prefill-timeout=500ms"]).await;
        let first = Emulator::start(prefill_engine()).await.unwrap();
        for faults in [
            Faults { status: Some(500), ..Faults::default() },
            Faults { hang: true, ..Faults::default() },
            Faults { reset_after_bytes: Some(20), ..Faults::default() },
        ] {
            first.set_faults(once(faults));
            let targets = format!("{},{}", first.host_port(), rig.prefill.host_port());
            let ask = Ask::post(CHAT.path, CHAT.body(true)).header(PREFILLER, &targets);
            let before = rig.prefill.state().totals.prefills;
            let answer = ask.send(rig.address()).await.ok();
            assert!(answer.text().ends_with("data: [DONE]\n\n"), "{pairing:?}");
            assert_eq!(rig.prefill.state().totals.prefills, before + 1, "{pairing:?}");
            rig.settled().await;
            eventually("the first engine is empty", || first.state().idle()).await;
        }
        assert_eq!(rig.decode.state().totals.computed_prompts, 0);
        rig.end().await;
    }
}
