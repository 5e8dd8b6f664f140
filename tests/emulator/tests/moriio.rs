//! MoRI-IO's WRITE mode: the prefill engine carries the KV to the decode engine's notify port, where the decode
//! leg waits for it, in series or side by side.

mod common;

use common::{
    Leg, SOON, alone, eventually, output, post, prefill_leg, prompt, refused, routes, start, with_params,
};
use http::StatusCode;
use kvferry_emulator::{Config, Emulator, Faults, Role};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

async fn pair() -> (Emulator, Emulator) {
    let config = |role| Config { role, ..Config::default() };
    (start(config(Role::Prefill)).await, start(config(Role::Decode)).await)
}

fn prefill(path: &str, body: &Value, d: &Emulator, id: &str) -> Value {
    let mut leg = prefill_leg(path, body);
    let params = &mut leg["kv_transfer_params"];
    params["remote_host"] = "127.0.0.1".into();
    params["remote_notify_port"] = d.notify_port().into();
    params["remote_handshake_port"] = d.kv_port().into();
    params["remote_dp_rank"] = 1.into();
    params["remote_dp_size"] = 2.into();
    params["remote_dp_rank_override"] = true.into();
    params["transfer_id"] = id.into();
    leg
}

/// The decode leg that a proxy sends beside the prefill leg.
fn decode(body: &Value, p: &Emulator, id: &str) -> Value {
    with_params(
        body,
        &json!({"do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [],
            "remote_engine_id": format!("127.0.0.1:{}", p.kv_port()), "remote_host": "127.0.0.1",
            "remote_port": p.kv_port(), "remote_notify_port": p.notify_port(),
            "remote_handshake_port": p.kv_port(), "remote_dp_rank": 1, "remote_dp_rank_override": true,
            "transfer_id": id, "tp_size": 1, "remote_dp_size": 2}),
    )
}

#[tokio::test]
async fn legs_side_by_side_answer_like_one_engine_whichever_is_first() {
    let (p, d) = pair().await;
    for (path, body) in routes() {
        let expected = alone(path, &body).await;
        let waiting = Leg::send(d.addr(), path, &decode(&body, &p, "a"));
        eventually("decode waits", || d.state().requests.waiting == 1).await;
        assert_eq!(post(p.addr(), path, &prefill(path, &body, &d, "a")).await.status, StatusCode::OK);
        assert_eq!(output(&waiting.answer().await), expected, "{path}, decode first");
        post(p.addr(), path, &prefill(path, &body, &d, "b")).await;
        assert_eq!(p.state().leases[0].request_id, "b");
        assert_eq!(output(&post(d.addr(), path, &decode(&body, &p, "b")).await), expected, "{path}");
        eventually("both idle", || p.state().idle() && d.state().idle()).await;
    }
    assert_eq!((d.state().totals.pulls, d.state().totals.computed_prompts), (10, 0));
    assert_eq!(p.state().totals.releases_after_read, 10);
}

#[tokio::test]
async fn the_prefill_answer_with_the_transfer_id_makes_a_decode_leg() {
    let (p, d) = pair().await;
    let answer = post(p.addr(), PATH, &prefill(PATH, &prompt(), &d, "a")).await.json();
    let mut params = answer["kv_transfer_params"].clone();
    assert_eq!((&params["do_remote_prefill"], &params["remote_dp_rank"]), (&json!(true), &json!(1)));
    assert!(params.get("transfer_id").is_none());
    params["remote_notify_port"] = d.notify_port().into();
    refused(&post(d.addr(), PATH, &with_params(&prompt(), &params)).await, "no usable transfer_id");
    params["transfer_id"] = "a".into();
    let leg = with_params(&prompt(), &params);
    assert_eq!(output(&post(d.addr(), PATH, &leg).await), alone(PATH, &prompt()).await);
}

#[tokio::test]
async fn a_wrong_field_on_the_decode_leg_is_an_error_and_frees_both() {
    let (p, d) = pair().await;
    let hasty = start(Config { rendezvous_timeout: SOON, ..Config::default() }).await;
    let cases = [
        ("remote_dp_rank", json!(0), "came for rank 1, the request named 0"),
        ("remote_port", json!(9), "no usable remote_engine_id"),
        ("remote_engine_id", json!("an-engine"), "no usable remote_engine_id"),
        ("remote_dp_rank", json!(2), "no usable remote_dp_rank"),
        ("remote_dp_rank", Value::Null, "no usable remote_dp_rank"),
        ("transfer_id", Value::Null, "no usable transfer_id"),
        ("transfer_id", json!("z"), "nobody brought the KV"),
    ];
    for (index, (field, wrong, words)) in cases.into_iter().enumerate() {
        let id = format!("case-{index}");
        let mut leg = decode(&prompt(), &p, &id);
        leg["kv_transfer_params"][field] = wrong;
        let d = if words.contains("nobody") { &hasty } else { &d };
        let waiting = Leg::send(d.addr(), PATH, &leg);
        post(p.addr(), PATH, &prefill(PATH, &prompt(), d, &id)).await;
        refused(&waiting.answer().await, words);
        eventually("decode idle", || d.state().idle()).await;
        p.restart();
    }
    let mut leg = decode(&prompt(), &p, "a");
    leg["kv_transfer_params"]["remote_engine_id"] = "127.0.0.1:9".into();
    leg["kv_transfer_params"]["remote_port"] = 9.into();
    let waiting = Leg::send(d.addr(), PATH, &leg);
    post(p.addr(), PATH, &prefill(PATH, &prompt(), &d, "a")).await;
    refused(&waiting.answer().await, "the request named 127.0.0.1:9");
    eventually("prefill idle", || p.state().idle()).await;
    assert_eq!(d.state().totals.computed_prompts, 0);
}

#[tokio::test]
async fn a_wrong_field_on_the_prefill_leg_is_an_error_or_strands_neither_side() {
    let p = start(Config { kv_lease: SOON, ..Config::default() }).await;
    let d = start(Config { rendezvous_timeout: SOON, ..Config::default() }).await;
    for field in ["remote_host", "transfer_id", "remote_dp_rank"] {
        let mut leg = prefill(PATH, &prompt(), &d, "a");
        leg["kv_transfer_params"][field] = Value::Null;
        refused(&post(p.addr(), PATH, &leg).await, &format!("no usable {field}"));
    }
    for (field, wrong) in [("remote_notify_port", json!(d.kv_port())), ("remote_host", json!("127.0.0.2"))] {
        let waiting = Leg::send(d.addr(), PATH, &decode(&prompt(), &p, field));
        let mut leg = prefill(PATH, &prompt(), &d, field);
        leg["kv_transfer_params"][field] = wrong;
        assert_eq!(post(p.addr(), PATH, &leg).await.status, StatusCode::OK);
        refused(&waiting.answer().await, "nobody brought the KV");
        eventually("both idle", || p.state().idle() && d.state().idle()).await;
    }
    assert_eq!(p.state().totals.expired, 2);
}

#[tokio::test]
async fn a_decode_leg_that_is_rejected_or_leaves_lets_the_prefill_engine_free() {
    let (p, d) = pair().await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), &d, "a")).await;
    let mut rejected = decode(&prompt(), &p, "a");
    rejected["model"] = "no-such-model".into();
    assert_eq!(post(d.addr(), PATH, &rejected).await.status, StatusCode::NOT_FOUND);
    eventually("the release", || p.state().idle()).await;
    let waiting = Leg::send(d.addr(), PATH, &decode(&prompt(), &p, "b"));
    eventually("decode waits", || d.state().requests.waiting == 1).await;
    waiting.leave();
    eventually("decode is free", || d.state().idle()).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), &d, "b")).await;
    eventually("the release", || p.state().idle()).await;
    assert_eq!(p.state().totals.releases_without_read, 2);
}

#[tokio::test]
async fn corrupted_kv_gives_another_answer_and_short_kv_an_error() {
    let (p, d) = pair().await;
    p.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    post(p.addr(), PATH, &prefill(PATH, &prompt(), &d, "a")).await;
    let answer = output(&post(d.addr(), PATH, &decode(&prompt(), &p, "a")).await);
    assert_ne!(answer, alone(PATH, &prompt()).await);
    let mut long = prompt();
    long["prompt"] = (0..100).collect::<Vec<u32>>().into();
    post(p.addr(), PATH, &prefill(PATH, &prompt(), &d, "b")).await;
    refused(&post(d.addr(), PATH, &decode(&long, &p, "b")).await, "KV load failed");
    eventually("both idle", || p.state().idle() && d.state().idle()).await;
}

#[tokio::test]
async fn rank_headers_of_both_legs_are_seen() {
    let (p, d) = pair().await;
    let mut request =
        common::request(http::Method::POST, PATH, prefill(PATH, &prompt(), &d, "a").to_string());
    request.headers_mut().insert("x-data-parallel-rank", "1".parse().unwrap());
    common::send(p.addr(), request).await.unwrap();
    assert_eq!(p.requests().last().unwrap().header_values("x-data-parallel-rank"), ["1"]);
}
