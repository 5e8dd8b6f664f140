//! `nixlv2` in push mode: a prefill engine is served serially until it is known, then both legs start at once, and an
//! engine that has become another never leads to a wrong answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvferry_emulator::{Config, Connector, Emulator, Faults, Role, Speeds};
use serde_json::{Value, json};

use crate::common::{
    APIS, Answer, Ask, LEASE, LONG_GRACE, Received, Rig, Route, SHORT_GRACE, Scripted, Sidecar, chunk,
    content, eventually, json_answer, prompt, sse_head, within,
};

const PUSH: &str = "--nixl-push-mode";
const CHAT: Route = APIS[0];
const ID: &str = "one-id";

fn engine(role: Role) -> Config {
    let connector = Some(Connector::NixlPush);
    Config { role, connector, kv_lease: LEASE, rendezvous_timeout: LEASE, ..Config::default() }
}

async fn rig(flags: &[&str]) -> Rig {
    let prefill = Emulator::start(engine(Role::Prefill)).await.unwrap();
    let decode = Emulator::start(engine(Role::Decode)).await.unwrap();
    let sidecar = Sidecar::start(decode.addr().port(), &[&[PUSH], flags].concat());
    Rig { prefill, decode, sidecar }
}

/// A rig whose prefill engine is known: the next request has both legs at once.
async fn met(flags: &[&str]) -> Rig {
    let rig = rig(flags).await;
    meet(&rig).await;
    rig
}

async fn meet(rig: &Rig) {
    for engine in [&rig.prefill, &rig.decode] {
        engine.set_faults(Faults::default());
        engine.set_speeds(Speeds::default());
    }
    let before = rig.decode.state().totals.pulls;
    rig.ask(CHAT.path, CHAT.body(false)).send(rig.address()).await.ok();
    assert_eq!(rig.decode.state().totals.pulls, before + 1);
}

/// Acts on that route alone, once.
fn once(faults: Faults) -> Faults {
    Faults { path: Some(CHAT.path.into()), times: Some(1), ..faults }
}

fn shown(answer: &Answer) -> Value {
    // Ids in an answer are made from the legs' request id, which is another for every attempt.
    content(answer, &["usage", "id", "item_id", "request_id"])
}

fn params(leg: &Received) -> Value {
    serde_json::from_str::<Value>(&leg.text()).unwrap()["kv_transfer_params"].clone()
}

fn identity(engine: &str) -> String {
    format!(
        r#"{{"kv_transfer_params":{{"do_remote_prefill":true,"remote_engine_id":"{engine}","remote_request_id":"r","remote_host":"10.0.0.5","remote_port":5600,"tp_size":2,"pp_size":1,"transfer_mode":"push","big":9007199254740993}}}}"#
    )
}

#[tokio::test]
async fn an_engine_that_is_met_for_the_first_time_is_served_serially() {
    let prefill = Scripted::answering(json_answer(200, &identity("e-1"))).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[PUSH]);
    let ask = Ask::post(CHAT.path, r#"{"m":1}"#).prefill(&prefill.host_port()).header("x-request-id", ID);
    ask.send(sidecar.address()).await.ok();
    let (prefill, decode) = (prefill.requests().remove(0), decode.requests().remove(0));
    let id = params(&prefill)["transfer_id"].as_str().unwrap().to_owned();
    assert_eq!((&id[..5], id.len()), ("xfer-", 41), "{id}");
    assert_eq!(
        prefill.text(),
        format!(
            r#"{{"kv_transfer_params":{{"transfer_id":"{id}","do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}},"stream":false,"max_tokens":1,"max_completion_tokens":1,"m":1}}"#
        )
    );
    assert_eq!(
        decode.text(),
        format!(
            r#"{{"kv_transfer_params":{{"transfer_id":"{id}","do_remote_prefill":true,"remote_engine_id":"e-1","remote_request_id":"r","remote_host":"10.0.0.5","remote_port":5600,"tp_size":2,"pp_size":1,"transfer_mode":"push","big":9007199254740993}},"m":1}}"#
        )
    );
    assert_eq!(sidecar.end().await.consumed, 1);
}

#[tokio::test]
async fn an_engine_that_is_known_gets_both_legs_at_once() {
    let (tell, asked) = (Arc::new(tokio::sync::Notify::new()), Arc::new(AtomicUsize::new(0)));
    let told = Arc::clone(&tell);
    let prefill = Scripted::start(move |mut exchange| {
        let (told, nth) = (Arc::clone(&told), asked.fetch_add(1, Ordering::Relaxed));
        async move {
            if nth > 0 {
                told.notified().await;
            }
            exchange.write(json_answer(200, &identity("e-1"))).await;
            Some(exchange)
        }
    })
    .await;
    let decode = Scripted::answering(json_answer(200, "{\"a\":1}")).await;
    let sidecar = Sidecar::start(decode.port(), &[PUSH]);
    let ask = || Ask::post(CHAT.path, "{}").prefill(&prefill.host_port()).header("x-request-id", ID);
    ask().send(sidecar.address()).await.ok();
    let client = tokio::spawn(ask().send(sidecar.address()));
    eventually("decode is sent while prefill works", || decode.requests().len() == 2).await;
    let (first, second) = (prefill.requests().remove(1), decode.requests().remove(1));
    let id = params(&first)["transfer_id"].clone();
    let told = params(&second);
    let request = told["remote_request_id"].as_str().unwrap();
    assert_eq!(
        told,
        json!({"do_remote_prefill": true, "do_remote_decode": false, "remote_engine_id": "e-1",
            "remote_host": "10.0.0.5", "remote_port": 5600, "tp_size": 2, "transfer_mode": "push", "pp_size": 1,
            "remote_request_id": request, "transfer_id": id})
    );
    assert!(!client.is_finished(), "the answer waits for prefill");
    tell.notify_one();
    assert_eq!(within("the answer", client).await.unwrap().ok().text(), "{\"a\":1}");
    assert_eq!(sidecar.end().await.consumed, 2);
}

#[tokio::test]
async fn an_answer_shows_what_prefill_had_cached_whether_or_not_it_waited_for_that() {
    let usage = |cached: u32| format!(r#""usage":{{"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#);
    for stream in [false, true] {
        let told = identity("e-1").replacen('{', &format!("{{{},", usage(5)), 1);
        let prefill = Scripted::answering(json_answer(200, &told)).await;
        let decode = Scripted::start(move |mut exchange| async move {
            if stream {
                exchange.write(sse_head()).await;
                exchange.write(chunk(&format!("data: {{{}}}\n\n", usage(63)))).await;
                exchange.write(chunk("")).await;
            } else {
                exchange.write(json_answer(200, &format!("{{ {} }}", usage(63)))).await;
            }
            Some(exchange)
        })
        .await;
        let sidecar = Sidecar::start(decode.port(), &[PUSH]);
        let expected =
            if stream { format!("data: {{{}}}\n\n", usage(5)) } else { format!("{{ {} }}", usage(5)) };
        // The first is served serially, the second with both legs at once.
        for _ in 0..2 {
            let ask = Ask::post(CHAT.path, "{}").prefill(&prefill.host_port());
            assert_eq!(ask.send(sidecar.address()).await.ok().text(), expected);
        }
        let named = |leg: &Received| params(leg)["big"].is_u64();
        assert_eq!(decode.requests().iter().map(named).collect::<Vec<_>>(), [true, false]);
        assert_eq!(sidecar.end().await.consumed, 2);
    }
}

#[tokio::test]
async fn every_attempt_has_ids_of_its_own_that_both_legs_share() {
    let prefill = Scripted::answering(json_answer(200, &identity("e-1"))).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[PUSH]);
    let mut ids = BTreeSet::new();
    for n in 0..3 {
        let ask = Ask::post(CHAT.path, "{}").prefill(&prefill.host_port()).header("x-request-id", ID);
        ask.send(sidecar.address()).await.ok();
        let (prefill, decode) = (prefill.requests().remove(n), decode.requests().remove(n));
        let id = prefill.header("x-request-id").unwrap();
        // The client's stays recognisable.
        assert!(id.starts_with("one-id-") && id.len() == ID.len() + 37, "{id}");
        assert_eq!(decode.header("x-request-id"), Some(id));
        let transfer = params(&prefill)["transfer_id"].clone();
        assert_eq!(params(&decode)["transfer_id"], transfer);
        assert!(ids.insert(id.to_owned()) && ids.insert(transfer.to_string()));
    }
    sidecar.end().await;
}

#[tokio::test]
async fn a_responses_legs_share_the_id_that_its_api_has_in_the_body() {
    let prefill = Scripted::answering(json_answer(200, &identity("e-1"))).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[PUSH]);
    let mut ids = BTreeSet::new();
    for (n, body) in [r#"{"input":"i"}"#, r#"{"input":"i","request_id":"mine"}"#].into_iter().enumerate() {
        Ask::post("/v1/responses", body).prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
        let id = |leg: Received| serde_json::from_str::<Value>(&leg.text()).unwrap()["request_id"].clone();
        let (prefill, decode) = (id(prefill.requests().remove(n)), id(decode.requests().remove(n)));
        assert_eq!(prefill, decode);
        assert!(prefill.as_str().unwrap().starts_with("resp_") && ids.insert(prefill.to_string()));
    }
    sidecar.end().await;
}

#[tokio::test]
async fn an_engine_that_became_another_gets_decode_sent_anew() {
    let lives = Arc::new(AtomicUsize::new(0));
    let prefill = Scripted::start(move |mut exchange| {
        let life = lives.fetch_add(1, Ordering::Relaxed);
        async move {
            exchange.write(json_answer(200, &identity(&format!("e-{life}")))).await;
            Some(exchange)
        }
    })
    .await;
    // What is sent beside prefill is not answered, as by an engine that waits for somebody who is gone.
    let decode = Scripted::start(|mut exchange| async move {
        let told = params(&exchange.request);
        if told.get("big").is_none() {
            exchange.left().await;
            return None;
        }
        exchange.write(json_answer(200, &json!({"from": told["remote_engine_id"]}).to_string())).await;
        Some(exchange)
    })
    .await;
    let sidecar = Sidecar::start(decode.port(), &[PUSH]);
    let ask = || Ask::post(CHAT.path, "{}").prefill(&prefill.host_port());
    for life in 0..8 {
        let answer = ask().send(sidecar.address()).await.ok();
        assert_eq!(answer.json(), json!({"from": format!("e-{life}")}));
    }
    // Three times it was found to be another; then it is not trusted any more, and asked first.
    let early: Vec<_> =
        decode.requests().iter().filter(|leg| params(leg).get("big").is_none()).cloned().collect();
    let used: Vec<_> = early.iter().map(|leg| params(leg)["remote_engine_id"].clone()).collect();
    assert_eq!(used, ["e-0", "e-1", "e-2"]);
    assert_eq!(sidecar.end().await.consumed, 8);
}

#[tokio::test]
async fn an_engine_that_does_not_push_is_served_serially_for_ever() {
    let prefill = Scripted::answering(json_answer(200, &identity("e-1").replace("push", "pull"))).await;
    let decode = Scripted::answering(json_answer(200, "{}")).await;
    let sidecar = Sidecar::start(decode.port(), &[PUSH]);
    for n in 0..3 {
        Ask::post(CHAT.path, "{}").prefill(&prefill.host_port()).send(sidecar.address()).await.ok();
        assert_eq!(params(&decode.requests()[n])["big"], 9_007_199_254_740_993_u64);
    }
    sidecar.end().await;
}

#[tokio::test]
async fn every_api_answers_as_one_engine_alone_would() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    let rig = rig(&[]).await;
    for route in APIS {
        for stream in [false, true] {
            let body = route.body(stream);
            let ask = Ask::post(route.path, body.clone());
            let expected = shown(&ask.send(alone.addr()).await.ok());
            let answer = rig.ask(route.path, body).send(rig.address()).await.ok();
            assert_eq!(shown(&answer), expected, "{} stream={stream}", route.path);
        }
    }
    rig.settled().await;
    let totals = rig.decode.state().totals;
    assert_eq!((totals.pulls, totals.pull_refused, totals.computed_prompts), (10, 0, 0));
    assert_eq!(rig.end().await.consumed, 10);
}

#[tokio::test]
async fn requests_that_share_an_id_at_the_same_time_each_get_their_own_answer() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    let rig = met(&[]).await;
    let mut answers = Vec::new();
    for n in 0..24 {
        let body = CHAT.value(&format!("request {n}{}", prompt(n * 7)), 9, n % 2 == 0).to_string();
        let expected = shown(&Ask::post(CHAT.path, body.clone()).send(alone.addr()).await.ok());
        let ask = rig.ask(CHAT.path, body).header("x-request-id", ID);
        answers.push((expected, tokio::spawn(ask.send(rig.address()))));
    }
    for (expected, answer) in answers {
        assert_eq!(shown(&within("an answer", answer).await.unwrap().ok()), expected);
    }
    assert_eq!(rig.decode.state().totals.computed_prompts, 0);
    rig.end().await;
}

#[tokio::test]
async fn a_prefill_engine_that_restarted_gives_the_right_answer() {
    let alone = Emulator::start(Config::default()).await.unwrap();
    for stream in [false, true] {
        let expected = shown(&Ask::post(CHAT.path, CHAT.body(stream)).send(alone.addr()).await.ok());
        let rig = met(&[]).await;
        // Slow enough for decode to be refused by the new engine first.
        for prefill_rate in [0, 2000] {
            rig.prefill.restart();
            rig.prefill.set_speeds(Speeds { prefill_rate, ..Speeds::default() });
            let answer = rig.ask(CHAT.path, CHAT.body(stream)).send(rig.address()).await.ok();
            assert_eq!(shown(&answer), expected, "stream={stream}");
            rig.settled().await;
        }
        rig.end().await;
    }
}

#[tokio::test]
async fn an_error_of_the_prefill_engine_is_passed_on_and_ends_decode() {
    let rig = met(&[]).await;
    for status in [400, 500, 503] {
        meet(&rig).await;
        let body = format!("{{\"error\": {{\"code\": {status} }} }} \n");
        let faults =
            Faults { status: Some(status), body: Some(body.clone()), delay_ms: 20, ..Faults::default() };
        rig.prefill.set_faults(once(faults));
        let answer = rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, body));
        rig.settled().await;
    }
    assert_eq!(rig.decode.state().totals.computed_prompts, 0);
    rig.end().await;
}

#[tokio::test]
async fn a_prefill_engine_that_stays_broken_is_asked_once_more_for_a_decode_that_waits_and_no_further() {
    for broken in [
        Faults { status: Some(503), delay_ms: 20, ..Faults::default() },
        Faults { status: Some(500), delay_ms: 20, ..Faults::default() },
    ] {
        let rig = met(&[]).await;
        let before = rig.prefill.requests().len();
        rig.prefill.set_faults(Faults { path: Some(CHAT.path.into()), ..broken });
        let answer = rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await;
        assert!(answer.status.is_server_error());
        rig.settled().await;
        assert_eq!(rig.prefill.requests().len(), before + 2);
        assert_eq!(rig.sidecar.ledger().expired, 1, "nothing came of it");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_prefill_that_fails_in_passing_is_tried_again_serially() {
    for faults in [
        Faults { status: Some(503), ..Faults::default() },
        // Nobody hears of the KV that this one leaves, but it has a name.
        Faults { reset_after_bytes: Some(20), ..Faults::default() },
    ] {
        let rig = met(&["--prefill-max-retries=1", "--prefill-retry-backoff=1ms"]).await;
        rig.prefill.set_faults(once(faults));
        let before = rig.decode.requests().len();
        rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await.ok();
        rig.settled().await;
        let legs: Vec<Value> = rig.decode.requests()[before..]
            .iter()
            .filter_map(|request| serde_json::from_str(request.body.as_ref()?).ok())
            .filter(|leg: &Value| leg["model"] == "tiny")
            .collect();
        // The last is made from what prefill returned: it knows how many tokens there are.
        assert!(legs.last().unwrap()["kv_transfer_params"]["remote_num_tokens"].is_u64(), "{legs:?}");
        assert_eq!(rig.decode.state().totals.computed_prompts, 0);
        rig.end().await;
    }
}

#[tokio::test]
async fn an_error_of_the_decode_engine_is_passed_on_and_ends_prefill() {
    let rig = met(&[LONG_GRACE]).await;
    for status in [400, 503] {
        meet(&rig).await;
        let body = "{\"decode\": 1 }".to_owned();
        rig.decode.set_faults(once(Faults {
            status: Some(status),
            body: Some(body.clone()),
            ..Faults::default()
        }));
        let answer = rig.ask(CHAT.path, CHAT.body(true)).send(rig.address()).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (status, body));
        rig.settled().await;
    }
    assert_eq!(rig.prefill.state().totals.expired, 0);
    rig.end().await;
}

#[tokio::test]
async fn two_legs_that_hang_end_at_the_prefill_legs_limit() {
    let rig = met(&["--prefill-timeout=150ms", SHORT_GRACE]).await;
    for stream in [false, true] {
        rig.prefill.set_faults(once(Faults { hang: true, ..Faults::default() }));
        let answer = rig.ask(CHAT.path, CHAT.body(stream)).send(rig.address()).await;
        answer.is_error(504, "prefill_timeout", "150 ms (--prefill-timeout)");
        rig.settled().await;
        meet(&rig).await;
    }
    rig.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_both_legs_and_leaves_nothing() {
    let rig = met(&[SHORT_GRACE]).await;
    for stream in [false, true] {
        rig.prefill.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
        let client = tokio::spawn(rig.ask(CHAT.path, CHAT.body(stream)).try_send(rig.address()));
        eventually("both legs are in their engines", || {
            rig.prefill.state().requests.running == 1 && rig.decode.state().requests.waiting == 1
        })
        .await;
        client.abort();
        rig.settled().await;
        meet(&rig).await;
    }
    let totals = rig.prefill.state().totals;
    assert_eq!((totals.expired, totals.aborted), (0, 2));
    rig.end().await;
}
