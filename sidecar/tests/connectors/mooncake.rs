//! Mooncake's pairing: the question to the bootstrap server, the ids in both legs, and the release by transfer id.

use std::collections::BTreeSet;
use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Faults, Role};
use serde_json::{Value, json};

use crate::common::{
    APIS, Answer, Ask, LEASE, Received, Rig, Scripted, Sidecar, content, eventually, json_answer,
    reserve_port,
};
use crate::hosts::own_host;

const FLAG: &str = "--kv-connector=mooncake";
const CHAT: &str = APIS[0].path;

fn engine(role: Role) -> Config {
    Config { role, rendezvous_timeout: LEASE, abort_timeout: LEASE, ..Config::default() }
}

async fn rig(dp_size: u32, flags: &[&str]) -> Rig {
    let prefill = Config { host: own_host(), bootstrap_port: 8998, dp_size, ..engine(Role::Prefill) };
    let prefill = Emulator::start(prefill).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[&[FLAG], flags].concat());
    Rig { prefill, decode, sidecar }
}

/// Engines that say yes to everything; `said` by the bootstrap server.
struct Scripts {
    bootstrap: Scripted,
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    async fn start(said: Vec<u8>, flags: &[&str]) -> Self {
        Self::answering(said, "{}", flags).await
    }

    /// `answer`: prefill's.
    async fn answering(said: Vec<u8>, answer: &str, flags: &[&str]) -> Self {
        let bootstrap = Scripted::answering(said).await;
        let prefill = Scripted::answering(json_answer(200, answer)).await;
        let decode = Scripted::answering(json_answer(200, "{}")).await;
        let port = format!("--mooncake-bootstrap-port={}", bootstrap.port());
        let sidecar = Sidecar::start(decode.port(), &[&[FLAG, port.as_str()], flags].concat());
        Self { bootstrap, prefill, decode, sidecar }
    }

    fn ask(&self, body: &str) -> Ask {
        Ask::post(CHAT, body).prefill(&self.prefill.host_port())
    }
}

fn params(leg: &Received) -> Value {
    serde_json::from_str::<Value>(&leg.text()).unwrap()["kv_transfer_params"].clone()
}

#[tokio::test]
async fn both_legs_carry_one_transfer_id_and_decode_the_engine_that_computes() {
    let rig = Scripts::start(json_answer(200, r#"{"3":{"engine_id":"e-3","worker_addr":{}}}"#), &[]).await;
    let body = r#"{"max_tokens": 900 ,"min_tokens":2,"stream":true,"seed":9007199254740993 }"#;
    let mut ids = BTreeSet::new();
    for n in 1..=4 {
        rig.ask(body).send(rig.sidecar.address()).await.ok();
        eventually("both legs were sent", || {
            rig.prefill.requests().len() == n && rig.decode.requests().len() == n
        })
        .await;
        let (prefill, decode) = (rig.prefill.requests()[n - 1].clone(), rig.decode.requests()[n - 1].clone());
        let id = params(&prefill)["transfer_id"].as_str().unwrap().to_owned();
        let uuid = id.strip_prefix("xfer-").unwrap();
        assert_eq!((uuid.len(), uuid.matches('-').count()), (36, 4), "{id}");
        let keep = format!(r#"{{"do_remote_prefill":false,"do_remote_decode":true,"transfer_id":"{id}"}}"#);
        assert_eq!(
            prefill.text(),
            format!(
                r#"{{"kv_transfer_params":{keep},"max_completion_tokens":1,"max_tokens": 1 ,"min_tokens":1,"stream":false,"seed":9007199254740993 }}"#
            )
        );
        assert_eq!(
            (prefill.header("x-data-parallel-rank"), decode.header("x-data-parallel-rank")),
            (Some("3"), None)
        );
        let address = format!("http://127.0.0.1:{}", rig.bootstrap.port());
        let fetch = json!({"do_remote_prefill": true, "do_remote_decode": false, "transfer_id": id,
            "remote_bootstrap_addr": address, "remote_engine_id": "e-3"});
        assert_eq!(params(&decode), fetch);
        assert!(decode.text().ends_with(&body[1..]), "{}", decode.text());
        assert_eq!(prefill.header("x-request-id"), decode.header("x-request-id"));
        assert!(ids.insert(id));
    }
    let asked = &rig.bootstrap.requests()[0];
    assert!(asked.head.starts_with("GET /query HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.header("host"), Some(rig.bootstrap.host_port().as_str()));
    assert_eq!(asked.header("authorization"), None, "what the client may do is none of its business");
    assert_eq!(rig.sidecar.end().await.consumed, 4);
}

#[tokio::test]
async fn every_rank_of_a_prefill_pod_gets_work_that_its_own_engine_hands_over() {
    let rig = rig(4, &[]).await;
    for n in 0..24 {
        rig.ask(CHAT, APIS[0].body(n % 2 == 0)).send(rig.address()).await.ok();
    }
    let seen = rig.prefill.requests();
    let ranks: BTreeSet<&str> =
        seen.iter().flat_map(|request| request.header_values("x-data-parallel-rank")).collect();
    // All of 24 at fewer than two of four engines: once in 4^23.
    assert!(ranks.len() > 1, "{ranks:?}");
    assert_eq!((rig.decode.state().totals.pulls, rig.decode.state().totals.computed_prompts), (24, 0));
    rig.end().await;
}

#[tokio::test]
async fn an_engine_that_started_anew_is_known_by_its_new_id() {
    let rig = rig(1, &[]).await;
    rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await.ok();
    rig.prefill.restart();
    // No engine starts in less than the second for which its id is remembered.
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await.ok();
    assert_eq!((rig.decode.state().totals.pulls, rig.decode.state().totals.pull_refused), (2, 0));
    rig.end().await;
}

#[tokio::test]
async fn a_failure_makes_the_next_request_ask_anew() {
    // Of either leg: an engine that is not the one it was may show itself in both.
    for (prefill, decode) in [(500, 200), (200, 500), (200, 404)] {
        let rig = Scripts::start(json_answer(200, r#"{"0":{"engine_id":"e"}}"#), &[]).await;
        let prefill = Scripted::answering(json_answer(prefill, "{}")).await;
        let decode = Scripted::answering(json_answer(decode, "{}")).await;
        let port = format!("--mooncake-bootstrap-port={}", rig.bootstrap.port());
        let sidecar = Sidecar::start(decode.port(), &[FLAG, &port]);
        for n in 1..=3 {
            let ask = Ask::post(CHAT, "{}").prefill(&prefill.host_port());
            assert!(!ask.send(sidecar.address()).await.status.is_success());
            assert_eq!(rig.bootstrap.requests().len(), n);
        }
        sidecar.end().await;
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn a_bootstrap_server_of_no_use_is_the_prefill_pods_fault_and_no_leg_is_sent() {
    for (said, why) in [
        (json_answer(503, "{}"), "it answered 503"),
        (json_answer(200, "{}"), "names no engine"),
        (json_answer(200, r#"{"0":{}}"#), "names no engine"),
        (json_answer(200, "[]"), "no JSON object"),
        (json_answer(200, "never heard of it"), "never heard of it"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec(), "before its answer was complete"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "not HTTP"),
    ] {
        let bootstrap = Scripted::start(move |mut exchange| {
            let said = said.clone();
            async move {
                exchange.write(said).await;
                None
            }
        })
        .await;
        let rig = Scripts::start(Vec::new(), &[]).await;
        let port = format!("--mooncake-bootstrap-port={}", bootstrap.port());
        let sidecar = Sidecar::start(rig.decode.port(), &[FLAG, &port]);
        let answer = rig.ask("{}").send(sidecar.address()).await;
        answer.is_error(502, "prefill_bootstrap_failed", why);
        assert!(answer.text().contains("127.0.0.1:"), "{}", answer.text());
        assert!(rig.prefill.requests().is_empty() && rig.decode.requests().is_empty());
        sidecar.end().await;
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn a_bootstrap_server_that_is_not_there_or_hangs_is_told_apart() {
    let (port, _reserved) = reserve_port();
    let rig = rig(1, &[]).await;
    let sidecar =
        Sidecar::start(rig.decode.addr().port(), &[FLAG, &format!("--mooncake-bootstrap-port={port}")]);
    let ask = Ask::post(CHAT, APIS[0].body(true)).prefill("127.0.0.1:1");
    ask.send(sidecar.address()).await.is_error(502, "prefill_bootstrap_failed", "connection refused");
    sidecar.end().await;

    let hasty = Sidecar::start(rig.decode.addr().port(), &[FLAG, "--prefill-timeout=200ms"]);
    rig.prefill.set_faults(Faults { hang: true, path: Some("/query".into()), ..Faults::default() });
    let ask = rig.ask(CHAT, APIS[0].body(true));
    ask.send(hasty.address()).await.is_error(504, "prefill_timeout", &rig.prefill.host_port());
    hasty.end().await;
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn kv_that_nobody_came_for_is_released_by_its_transfer_id() {
    let rig = rig(2, &[]).await;
    // Decode refuses while prefill has long answered.
    rig.decode.set_faults(Faults {
        status: Some(500),
        delay_ms: 50,
        path: Some(CHAT.into()),
        times: Some(1),
        ..Faults::default()
    });
    let answer = rig.ask(CHAT, APIS[0].body(false)).send(rig.address()).await;
    assert_eq!(answer.status.as_u16(), 500);
    rig.settled().await;
    assert_eq!(rig.prefill.state().totals.releases_without_read, 1);
    let counts = rig.end().await;
    assert_eq!((counts.released, counts.expired), (1, 0));
}

#[tokio::test]
async fn a_prefill_answer_that_is_no_json_object_is_the_prefill_engines_fault() {
    let rig = rig(1, &[]).await;
    let faults = Faults { not_json: true, path: Some(CHAT.into()), times: Some(1), ..Faults::default() };
    rig.prefill.set_faults(faults);
    let answer = rig.ask(CHAT, APIS[0].body(false)).send(rig.address()).await;
    answer.is_error(502, "prefill_answer_invalid", &rig.prefill.host_port());
    rig.end().await;
}

#[tokio::test]
async fn a_responses_prefill_goes_on_behind_every_token_that_could_end_it_and_is_not_stored() {
    let rig = Scripts::start(json_answer(200, r#"{"0":{"engine_id":"e"}}"#), &[]).await;
    for (body, rest) in [
        (r#"{"input":"i"}"#, r#","ignore_eos":true,"stop_token_ids":[],"input":"i"}"#),
        (
            r#"{"ignore_eos": false, "stop_token_ids": [7] ,"stop":"x","store":true}"#,
            r#""ignore_eos": true, "stop_token_ids": [] ,"stop":"x","store":false}"#,
        ),
    ] {
        let ask = Ask::post("/v1/responses", body).prefill(&rig.prefill.host_port());
        ask.send(rig.sidecar.address()).await.ok();
        let leg = rig.prefill.requests().pop().unwrap();
        assert!(leg.text().ends_with(rest), "{}", leg.text());
        let leg: Value = serde_json::from_str(&leg.text()).unwrap();
        assert_eq!(
            (&leg["max_output_tokens"], &leg["stream"], &leg["store"]),
            (&json!(1), &json!(false), &json!(false))
        );
    }
    rig.sidecar.end().await;
}

#[tokio::test]
async fn a_messages_prefill_that_ended_by_itself_has_decode_compute_the_prompt() {
    for (reason, anew) in [("end_turn", true), ("max_tokens", false), ("stop_sequence", false)] {
        let answer = format!(r#"{{"type":"message","stop_reason":"{reason}"}}"#);
        let said = json_answer(200, r#"{"0":{"engine_id":"e"}}"#);
        let rig = Scripts::answering(said, &answer, &[]).await;
        let ask = Ask::post("/v1/messages", r#"{"max_tokens":9}"#).prefill(&rig.prefill.host_port());
        ask.send(rig.sidecar.address()).await.ok();
        // The leg that was cancelled may be read after the one that was answered.
        let asked_anew = rig.decode.requests().iter().any(|request| params(request).is_null());
        assert_eq!(asked_anew, anew, "{reason}");
        assert_eq!(rig.sidecar.end().await.handed_out, u64::from(!anew), "{reason}");
    }
}

#[tokio::test]
async fn a_model_that_would_end_at_once_answers_every_api_as_one_engine_alone_would() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    let host = own_host();
    let prefill = Config { host, bootstrap_port: 8998, stop_after: Some(1), ..engine(Role::Prefill) };
    let prefill = Emulator::start(prefill).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[FLAG]);
    let rig = Rig { prefill, decode, sidecar };
    for route in APIS {
        for stream in [false, true] {
            let ask = |ask: Ask| ask.header("x-request-id", "id");
            let expected = ask(Ask::post(route.path, route.body(stream))).send(alone.addr()).await.ok();
            let answer = ask(rig.ask(route.path, route.body(stream))).send(rig.address()).await.ok();
            let shown = |answer: &Answer| content(answer, &["usage"]);
            assert_eq!(shown(&answer), shown(&expected), "{} stream={stream}", route.path);
            rig.settled().await;
        }
    }
    // Only Messages has no words against an early end.
    let totals = rig.decode.state().totals;
    assert_eq!((totals.pulls, totals.computed_prompts), (8, 2));
    let counts = rig.end().await;
    assert_eq!((counts.consumed, counts.expired), (8, 0));
}
