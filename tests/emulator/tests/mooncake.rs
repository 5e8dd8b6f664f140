//! Mooncake's pair: the prefill leg answers at once and keeps its KV, the decode leg finds the engine in the
//! bootstrap server's list and waits for it.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::time::Duration;

use common::{
    Answer, Leg, SOON, alone, eventually, get, output, post, prefill_leg, prompt, refused, request, routes,
    send, start, with_params,
};
use http::{Method, StatusCode};
use kvferry_emulator::{Config, Connector, Emulator, Faults, Role, Speeds};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

async fn pair(patience: Duration) -> (Emulator, Emulator) {
    let config = |role| Config { role, rendezvous_timeout: patience, ..Config::default() };
    (start(config(Role::Prefill)).await, start(config(Role::Decode)).await)
}

async fn patient_pair() -> (Emulator, Emulator) {
    pair(Config::default().rendezvous_timeout).await
}

fn prefill(path: &str, body: &Value, id: &str) -> Value {
    let params = json!({"do_remote_prefill": false, "do_remote_decode": true, "transfer_id": id});
    with_params(&prefill_leg(path, body), &params)
}

fn params(p: &Emulator, engine_id: &str, id: &str) -> Value {
    json!({"do_remote_prefill": true, "do_remote_decode": false, "transfer_id": id,
        "remote_bootstrap_addr": format!("http://127.0.0.1:{}", p.bootstrap_port()),
        "remote_engine_id": engine_id})
}

fn decode(body: &Value, p: &Emulator, id: &str) -> Value {
    with_params(body, &params(p, &p.state().engine_id, id))
}

async fn to_rank(p: &Emulator, rank: &str, leg: &Value) -> Answer {
    let mut request = request(Method::POST, PATH, leg.to_string());
    request.headers_mut().insert("x-data-parallel-rank", rank.parse().unwrap());
    send(p.addr(), request).await.unwrap()
}

#[tokio::test]
async fn the_bootstrap_server_lists_an_engine_id_for_every_rank() {
    let p = start(Config { dp_size: 3, ..Config::default() }).await;
    let list = get((p.addr().ip(), p.bootstrap_port()).into(), "/query").await.json();
    assert_eq!(list.as_object().unwrap().len(), 3);
    assert_eq!(list["0"]["engine_id"], p.state().engine_id);
    assert_ne!(list["1"]["engine_id"], list["2"]["engine_id"]);
    p.restart();
    let after = get((p.addr().ip(), p.bootstrap_port()).into(), "/query").await.json();
    assert_ne!(after["1"]["engine_id"], list["1"]["engine_id"]);
}

#[tokio::test]
async fn a_pair_answers_like_one_engine_whichever_leg_is_first() {
    let (p, d) = patient_pair().await;
    for (path, body) in routes() {
        let expected = alone(path, &body).await;
        for (id, stream) in [("xfer-a", false), ("xfer-b", true)] {
            let answer = post(p.addr(), path, &prefill(path, &body, id)).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            assert!(answer.json().get("kv_transfer_params").is_none_or(Value::is_null));
            assert!(p.state().blocks.held.leased > 0 && !p.state().idle());
            let mut leg = decode(&body, &p, id);
            leg["stream"] = stream.into();
            assert_eq!(output(&post(d.addr(), path, &leg).await), expected, "{path}");
        }
        let waiting = Leg::send(d.addr(), path, &decode(&body, &p, "xfer-c"));
        eventually("decode waits", || d.state().requests.waiting == 1).await;
        assert_eq!(post(p.addr(), path, &prefill(path, &body, "xfer-c")).await.status, StatusCode::OK);
        assert_eq!(output(&waiting.answer().await), expected, "{path}, decode first");
        eventually("both idle", || p.state().idle() && d.state().idle()).await;
    }
    let totals = d.state().totals;
    assert_eq!((totals.pulls, totals.computed_prompts, totals.pull_refused), (15, 0, 0));
    assert_eq!(p.state().totals.releases_after_read, 15);
}

#[tokio::test]
async fn every_prompt_of_a_list_crosses_by_itself() {
    let (p, d) = patient_pair().await;
    let body = json!({"prompt": ["one two three", "four five six", "seven"], "max_tokens": 3});
    let expected = post(d.addr(), PATH, &body).await.json();
    post(p.addr(), PATH, &prefill(PATH, &body, "x")).await;
    assert_eq!(p.state().leases.len(), 3);
    let answer = post(d.addr(), PATH, &decode(&body, &p, "x")).await.json();
    assert_eq!(answer["choices"], expected["choices"]);
    assert!(p.state().idle());
}

#[tokio::test]
async fn a_wrong_engine_bootstrap_address_or_missing_field_is_an_error() {
    let (p, patient) = patient_pair().await;
    let hasty = start(Config { rendezvous_timeout: SOON, ..Config::default() }).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    for (field, wrong, words) in [
        ("remote_engine_id", json!("another"), "knows no engine another"),
        ("remote_engine_id", Value::Null, "remote_engine_id"),
        ("transfer_id", json!("y"), "nothing came from the other engine"),
        ("transfer_id", Value::Null, "transfer_id"),
        ("remote_bootstrap_addr", json!("127.0.0.1:1"), "not an http:// address"),
        ("remote_bootstrap_addr", json!("http://127.0.0.1:1"), "bootstrap"),
        ("remote_bootstrap_addr", json!(format!("http://{}", p.host_port())), "answered 404"),
        (
            "remote_bootstrap_addr",
            json!(format!("http://127.0.0.1:{}", patient.bootstrap_port())),
            "knows no engine",
        ),
        ("remote_bootstrap_addr", Value::Null, "remote_bootstrap_addr"),
    ] {
        let mut leg = decode(&prompt(), &p, "x");
        leg["kv_transfer_params"][field] = wrong;
        let d = if words.contains("nothing came") { &hasty } else { &patient };
        refused(&post(d.addr(), PATH, &leg).await, words);
        assert!(d.state().idle());
    }
    assert_eq!(patient.state().totals.computed_prompts + hasty.state().totals.computed_prompts, 0);
    assert_eq!(p.state().leases[0].request_id, "x");
}

#[tokio::test]
async fn an_engine_id_from_before_a_restart_is_refused() {
    let (p, d) = patient_pair().await;
    let stale = decode(&prompt(), &p, "x");
    p.restart();
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    refused(&post(d.addr(), PATH, &stale).await, "knows no engine");
    assert_eq!(post(d.addr(), PATH, &decode(&prompt(), &p, "x")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn kv_is_found_only_at_the_rank_that_computed_it() {
    let p = start(Config { dp_size: 2, ..Config::default() }).await;
    let (_p, hasty) = pair(SOON).await;
    let d = start(Config::default()).await;
    let list = get((p.addr().ip(), p.bootstrap_port()).into(), "/query").await.json();
    let leg =
        |rank: &str| with_params(&prompt(), &params(&p, list[rank]["engine_id"].as_str().unwrap(), "x"));
    assert_eq!(to_rank(&p, "1", &prefill(PATH, &prompt(), "x")).await.status, StatusCode::OK);
    refused(&post(hasty.addr(), PATH, &leg("0")).await, "nothing came");
    assert_eq!(output(&post(d.addr(), PATH, &leg("1")).await), alone(PATH, &prompt()).await);
    refused(&to_rank(&p, "2", &prefill(PATH, &prompt(), "y")).await, "x-data-parallel-rank");
}

#[tokio::test]
async fn kv_that_nobody_fetches_is_freed_after_the_abort_timeout() {
    let p = start(Config { abort_timeout: SOON, ..Config::default() }).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    eventually("expiry", || p.state().idle()).await;
    assert_eq!((p.state().totals.expired, p.state().totals.prefills), (1, 1));
}

#[tokio::test]
async fn a_decode_leg_that_is_rejected_or_leaves_lets_the_prefill_engine_free() {
    let (p, d) = patient_pair().await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    let mut rejected = decode(&prompt(), &p, "x");
    rejected["model"] = "no-such-model".into();
    assert_eq!(post(d.addr(), PATH, &rejected).await.status, StatusCode::NOT_FOUND);
    eventually("the release", || p.state().idle()).await;

    // It leaves before the prefill leg computed: its release waits there in its place.
    let waiting = Leg::send(d.addr(), PATH, &decode(&prompt(), &p, "y"));
    eventually("decode waits", || p.requests().iter().filter(|seen| seen.path == "/query").count() == 2)
        .await;
    waiting.leave();
    eventually("decode is free", || d.state().idle()).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "y")).await;
    eventually("the release", || p.state().idle()).await;
    assert_eq!(p.state().totals.releases_without_read, 2);
}

#[tokio::test]
async fn a_prefill_client_that_leaves_before_the_answer_frees_and_keeps_nothing() {
    let (p, _d) = patient_pair().await;
    p.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let mut body = prompt();
    body["prompt"] = (0..1000).collect::<Vec<u32>>().into();
    let leg = Leg::send(p.addr(), PATH, &prefill(PATH, &body, "x"));
    eventually("prefill runs", || p.state().requests.running == 1).await;
    leg.leave();
    eventually("prefill is free", || p.state().idle()).await;
    assert_eq!(p.state().totals.aborted, 1);
}

#[tokio::test]
async fn corrupted_or_foreign_kv_gives_another_answer() {
    let (p, d) = patient_pair().await;
    let expected = alone(PATH, &prompt()).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    p.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    assert_ne!(output(&post(d.addr(), PATH, &decode(&prompt(), &p, "x")).await), expected);
    let mut other = prompt();
    other["prompt"] = "the quick brown fox jumps over the lazy cat".into();
    post(p.addr(), PATH, &prefill(PATH, &other, "y")).await;
    assert_ne!(output(&post(d.addr(), PATH, &decode(&prompt(), &p, "y")).await), expected);
}

#[tokio::test]
async fn an_engine_for_mooncake_takes_no_other_protocol() {
    let config = |role| Config { role, connector: Some(Connector::Mooncake), ..Config::default() };
    let (p, d) = (start(config(Role::Prefill)).await, start(config(Role::Decode)).await);
    refused(&post(p.addr(), PATH, &prefill_leg(PATH, &prompt())).await, "speaks mooncake, the request nixl");
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    assert_eq!(post(d.addr(), PATH, &decode(&prompt(), &p, "x")).await.status, StatusCode::OK);
}
