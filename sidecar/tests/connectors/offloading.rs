//! The P2P tier: KV stored by prefill and fetched by decode, and the cached start of a prompt pulled from a third engine,
//! with `offloading` and with `nixlv2` beside it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kvferry_emulator::{Config, Emulator, Faults, Role, Speeds};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::common::{
    APIS, Answer, Ask, LEASE, Received, Rig, Scripted, Sidecar, content, eventually, json_answer, prompt,
    reserve_port, within,
};
use crate::hosts::own_host;

const FLAG: &str = "--kv-connector=offloading";
const NIXL: [&str; 2] = ["--kv-connector=nixlv2", "--enable-p2p-pull"];
const SOURCE: &str = "x-kv-cache-source-host-port";
const CHAT: &str = APIS[0].path;

/// Where every engine's tier listens unless a flag says otherwise.
const TIER: u16 = 7777;

fn engine(role: Role) -> Config {
    Config { role, rendezvous_timeout: LEASE, kv_lease: LEASE, ..Config::default() }
}

fn peer(role: Role) -> Config {
    Config { host: own_host(), p2p_port: TIER, ..engine(role) }
}

async fn rig(prefill: Config, flags: &[&str]) -> Rig {
    let prefill = Emulator::start(prefill).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), flags);
    Rig { prefill, decode, sidecar }
}

/// Engines that say yes to everything.
struct Scripts {
    prefill: Scripted,
    decode: Scripted,
    sidecar: Sidecar,
}

impl Scripts {
    async fn start(flags: &[&str]) -> Self {
        let prefill = Scripted::answering(json_answer(200, "{}")).await;
        let decode = Scripted::answering(json_answer(200, "{}")).await;
        let sidecar = Sidecar::start(decode.port(), flags);
        Self { prefill, decode, sidecar }
    }

    /// What the legs of a request with this source carry.
    async fn legs(&self, body: &str, source: &str) -> (Received, Received) {
        let ask = Ask::post(CHAT, body).prefill(&self.prefill.host_port()).header(SOURCE, source);
        ask.send(self.sidecar.address()).await.ok();
        (self.prefill.requests().pop().unwrap(), self.decode.requests().pop().unwrap())
    }

    /// What the decode engine gets of a request without prefill.
    async fn alone(&self, body: &str, source: &str) -> Received {
        let ask = Ask::post(CHAT, body).header(SOURCE, source);
        ask.send(self.sidecar.address()).await.ok();
        self.decode.requests().pop().unwrap()
    }
}

fn params(leg: &Received) -> Value {
    serde_json::from_str::<Value>(&leg.text()).unwrap()["kv_transfer_params"].clone()
}

fn is_id(value: &Value) -> bool {
    value.as_str().is_some_and(|id| id.len() == 36)
}

#[tokio::test]
async fn prefill_stores_under_an_id_and_decode_fetches_by_it() {
    let rig = Scripts::start(&[FLAG, "--p2p-connector-port=7000"]).await;
    let mut ids = BTreeSet::new();
    let body = r#"{"max_tokens": 900 ,"stream":true,"kv_transfer_params":{"remote_host":"evil"}, "a":1.0}"#;
    for _ in 0..3 {
        let (prefill, decode) = rig.legs(body, "").await;
        let id = params(&prefill)["remote_decoder"]["kv_request_id"].clone();
        assert!(is_id(&id) && ids.insert(id.to_string()), "{id}");
        let with = |stored: &str| body.replace(r#"{"remote_host":"evil"}"#, stored);
        let store = with(&format!(r#"{{"remote_decoder":{{"kv_request_id":{id}}}}}"#));
        let capped = store.replace(" 900 ", " 1 ").replace("\"stream\":true", "\"stream\":false");
        assert_eq!(prefill.text(), capped.replacen('{', r#"{"max_completion_tokens":1,"#, 1));
        assert_eq!(
            decode.text(),
            with(&format!(
                r#"{{"remote_prefiller":{{"kv_request_id":{id},"remote_host":"127.0.0.1","remote_port":7000}}}}"#
            ))
        );
        assert_eq!(prefill.header("x-request-id"), decode.header("x-request-id"));
    }
    rig.sidecar.end().await;
}

#[tokio::test]
async fn every_api_answers_as_one_engine_alone_would() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    let rig = rig(peer(Role::Prefill), &[FLAG]).await;
    for route in APIS {
        for stream in [false, true] {
            let body = route.body(stream);
            let ask = |ask: Ask| ask.header("x-request-id", "one-id");
            let expected = ask(Ask::post(route.path, body.clone())).send(alone.addr()).await.ok();
            let answer = ask(rig.ask(route.path, body)).send(rig.address()).await.ok();
            let shown = |answer: &Answer| content(answer, &["usage"]);
            assert_eq!(shown(&answer), shown(&expected), "{} stream={stream}", route.path);
            rig.settled().await;
        }
    }
    let totals = rig.decode.state().totals;
    assert_eq!((totals.pulls, totals.computed_prompts), (10, 0));
    rig.end().await;
}

#[tokio::test]
async fn decode_is_sent_when_prefill_has_stored_everything() {
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
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[FLAG]);
    let ask = Ask::post(CHAT, "{}").prefill(&prefill.host_port());
    let client = tokio::spawn(ask.send(sidecar.address()));
    eventually("prefill was asked", || prefill.requests().len() == 1).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(decode.requests().is_empty(), "decode came before prefill had stored its KV");
    go.notify_one();
    within("the answer", client).await.unwrap().ok();
    assert_eq!(decode.requests().len(), 1);
    sidecar.end().await;
}

#[tokio::test]
async fn a_failed_prefill_is_told_and_decode_is_not_asked() {
    let rig = rig(peer(Role::Prefill), &[FLAG, "--prefill-timeout=300ms"]).await;
    let body = "{\"error\":  1}".to_owned();
    rig.prefill.set_faults(Faults { status: Some(429), body: Some(body.clone()), ..Faults::default() });
    let answer = rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (429, body));
    for (faults, status, code) in [
        (Faults { hang: true, ..Faults::default() }, 504, "prefill_timeout"),
        (Faults { reset_before: true, ..Faults::default() }, 502, "prefill_broke"),
        (Faults { not_json: true, ..Faults::default() }, 502, "prefill_answer_invalid"),
    ] {
        rig.prefill.set_faults(faults);
        let answer = rig.ask(CHAT, APIS[0].body(false)).send(rig.address()).await;
        answer.is_error(status, code, &rig.prefill.host_port());
    }
    let (port, _reserved) = reserve_port();
    let target = format!("127.0.0.1:{port}");
    let ask = Ask::post(CHAT, APIS[0].body(true)).prefill(&target);
    ask.send(rig.address()).await.is_error(502, "prefill_unreachable", &target);
    assert!(rig.decode.requests().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn kv_that_nobody_fetches_is_the_tiers_to_drop() {
    // It is a cache: an entry that nobody wants leaves it by itself.
    let rig = rig(Config { kv_lease: Duration::from_millis(200), ..peer(Role::Prefill) }, &[FLAG]).await;
    let once = |faults| Faults { times: Some(1), ..faults };
    rig.decode.set_faults(once(Faults { status: Some(503), ..Faults::default() }));
    let answer = rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await;
    assert_eq!(answer.status.as_u16(), 503);
    rig.prefill.set_faults(once(Faults { reset_after_bytes: Some(20), ..Faults::default() }));
    let answer = rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await;
    answer.is_error(502, "prefill_broke", &rig.prefill.host_port());
    rig.decode.set_faults(once(Faults { hang: true, ..Faults::default() }));
    let client = tokio::spawn(rig.ask(CHAT, APIS[0].body(false)).try_send(rig.address()));
    eventually("decode was asked", || rig.decode.faults() == Faults::default()).await;
    client.abort();
    rig.settled().await;
    rig.ask(CHAT, APIS[0].body(true)).send(rig.address()).await.ok();
    let decodes = rig.decode.requests();
    assert!(decodes.iter().all(|request| request.path == CHAT), "nothing but decode legs: {decodes:?}");
    assert_eq!(rig.end().await.handed_out, 0);
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_leg_that_runs() {
    let rig = rig(peer(Role::Prefill), &[FLAG]).await;
    rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let client = tokio::spawn(rig.ask(CHAT, APIS[0].body(true)).try_send(rig.address()));
    eventually("prefill computes", || rig.prefill.state().requests.running == 1).await;
    client.abort();
    rig.settled().await;
    assert_eq!((rig.prefill.state().totals.aborted, rig.decode.requests().len()), (1, 0));
    rig.prefill.set_speeds(Speeds::default());
    rig.decode.set_speeds(Speeds { itl_ms: 60_000, ..Speeds::default() });
    let mut client = rig.ask(CHAT, APIS[0].body(true)).open(rig.address()).await.unwrap();
    client.until("data: ").await;
    drop(client);
    rig.end().await;
}

#[tokio::test]
async fn a_source_goes_into_the_prefill_leg_under_an_id_of_its_own() {
    let flags: [&[&str]; 2] = [&[FLAG], &NIXL];
    for flags in flags {
        let rig = Scripts::start(flags).await;
        let (prefill, decode) = rig.legs("{}", " 10.9.9.9:8000 ").await;
        let mut kv = params(&prefill);
        let source = kv["remote_kv_source"].take();
        assert_eq!((&source["remote_host"], &source["remote_port"]), (&json!("10.9.9.9"), &json!(TIER)));
        assert!(is_id(&source["kv_request_id"]) && source.as_object().unwrap().len() == 3, "{source}");
        // Beside what the connector has there anyway.
        if flags == [FLAG] {
            assert!(is_id(&kv["remote_decoder"]["kv_request_id"]));
            assert_ne!(kv["remote_decoder"]["kv_request_id"], source["kv_request_id"]);
        } else {
            assert_eq!((&kv["do_remote_decode"], &kv["do_remote_prefill"]), (&json!(true), &json!(false)));
        }
        assert!(params(&decode).get("remote_kv_source").is_none());
        assert_eq!(prefill.header(SOURCE), None);
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn a_source_without_prefill_goes_to_the_decode_engine_and_replaces_the_clients_parameters() {
    let flags: [&[&str]; 2] =
        [&[FLAG, "--p2p-connector-port=7000"], &[NIXL[0], NIXL[1], "--p2p-connector-port=7000"]];
    for flags in flags {
        let rig = Scripts::start(flags).await;
        let body = r#"{"max_tokens": 5,"stream":true,"kv_transfer_params":{"remote_host":"evil"}, "big":9007199254740993.0}"#;
        let mut ids = BTreeSet::new();
        for _ in 0..2 {
            let leg = rig.alone(body, "prefill-7.pool.svc:8000").await;
            let id = params(&leg)["remote_kv_source"]["kv_request_id"].clone();
            let source = format!(
                r#"{{"remote_kv_source":{{"kv_request_id":{id},"remote_host":"prefill-7.pool.svc","remote_port":7000}}}}"#
            );
            assert_eq!(leg.text(), body.replace(r#"{"remote_host":"evil"}"#, &source));
            assert_eq!(leg.header("content-length"), Some(leg.text().len().to_string().as_str()));
            assert_eq!(leg.header("transfer-encoding"), None);
            assert!(ids.insert(id.to_string()));
        }
        assert!(rig.prefill.requests().is_empty());
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn a_source_that_is_the_prefill_engine_itself_is_no_source() {
    let rig = Scripts::start(&[FLAG]).await;
    let own = rig.prefill.host_port();
    for source in [own.clone(), format!("http://{own}"), format!("[::ffff:7f00:1]:{}", rig.prefill.port())] {
        let (prefill, _) = rig.legs("{}", &source).await;
        assert!(params(&prefill).get("remote_kv_source").is_none(), "{source}");
    }
    // Another port of the same host is another engine.
    let (prefill, _) = rig.legs("{}", "127.0.0.1:1").await;
    assert!(params(&prefill).get("remote_kv_source").is_some());
    rig.sidecar.end().await;
}

#[tokio::test]
async fn a_source_that_cannot_be_is_ignored() {
    let rig = Scripts::start(&[FLAG]).await;
    for source in ["", "not-a-host-port", ":8000", "10.9.9.9", "10.9.9.9:http", "10.9.9.9:0", "a b:1"] {
        let body = r#"{"kv_transfer_params":{"a":1}}"#;
        assert_eq!(rig.alone(body, source).await.text(), body, "{source:?}");
        let (prefill, _) = rig.legs(body, source).await;
        assert!(params(&prefill).get("remote_kv_source").is_none(), "{source:?}");
    }
    rig.sidecar.end().await;
}

#[tokio::test]
async fn a_source_is_ignored_where_engines_cannot_pull() {
    for flags in [&[NIXL[0]][..], &["--kv-connector=atom"]] {
        let rig = Scripts::start(flags).await;
        // Not even read: what is no JSON would be refused.
        assert_eq!(rig.alone("no JSON", "10.9.9.9:8000").await.text(), "no JSON", "{flags:?}");
        let (prefill, _) = rig.legs("{}", "10.9.9.9:8000").await;
        assert!(params(&prefill).get("remote_kv_source").is_none(), "{flags:?}");
        rig.sidecar.end().await;
    }
}

#[tokio::test]
async fn a_body_that_must_be_edited_must_be_json() {
    let rig = Scripts::start(&[FLAG]).await;
    let ask = Ask::post(CHAT, "no JSON").header(SOURCE, "10.9.9.9:8000");
    ask.send(rig.sidecar.address()).await.is_error(400, "malformed_body", "invalid JSON");
    assert!(rig.decode.requests().is_empty());
    rig.sidecar.end().await;
}

#[tokio::test]
async fn the_cached_start_of_a_prompt_really_comes_from_the_source() {
    let flags: [&[&str]; 2] = [&[FLAG], &NIXL];
    for flags in flags {
        let rig = rig(peer(Role::Prefill), flags).await;
        let source = Emulator::start(peer(Role::Both)).await.unwrap();
        for (n, stream) in [false, true].into_iter().enumerate() {
            let body = APIS[1].value(&format!("{n}{}", prompt(100)), 8, stream).to_string();
            let id = |ask: Ask| ask.header("x-request-id", "one-id");
            let expected = id(Ask::post(APIS[1].path, body.clone())).send(source.addr()).await.ok();
            let through = |ask: Ask| id(ask).header(SOURCE, &source.host_port()).send(rig.address());
            let shown = |answer: &Answer| content(answer, &["usage"]);

            let answer = through(rig.ask(APIS[1].path, body.clone())).await.ok();
            assert_eq!(shown(&answer), shown(&expected), "{flags:?}");
            let totals = rig.prefill.state().totals;
            assert_eq!((totals.source_hits, totals.computed_prompts), (n as u64 + 1, 0), "{flags:?}");
            rig.settled().await;

            // Without prefill, the decode engine pulls. A prompt of its own: this one it has in its cache by now.
            let body = APIS[1].value(&format!("alone {n}{}", prompt(100)), 8, stream).to_string();
            let expected = id(Ask::post(APIS[1].path, body.clone())).send(source.addr()).await.ok();
            let answer = through(Ask::post(APIS[1].path, body)).await.ok();
            assert_eq!(shown(&answer), shown(&expected), "{flags:?}");
            assert_eq!(rig.decode.state().totals.source_hits, n as u64 + 1, "{flags:?}");
        }
        assert_eq!(rig.decode.state().totals.computed_prompts, 0, "{flags:?}");
        rig.end().await;
    }
}
