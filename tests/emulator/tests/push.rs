//! NIXL's push mode: the prefill leg answers who it is, the decode leg registers there under the transfer id,
//! before or after the prefill leg came.

mod common;

use common::{
    Leg, SOON, alone, decode_leg, eventually, output, post, prefill_leg, prompt, refused, routes, start,
    with_params,
};
use http::StatusCode;
use kvferry_emulator::{Config, Connector, Emulator, Faults, Role};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

async fn pair() -> (Emulator, Emulator) {
    let config = |role| Config { role, ..Config::default() };
    (start(config(Role::Prefill)).await, start(config(Role::Decode)).await)
}

fn prefill(path: &str, body: &Value, id: &str) -> Value {
    let mut leg = prefill_leg(path, body);
    leg["kv_transfer_params"]["transfer_id"] = id.into();
    leg
}

/// The decode leg that a proxy makes of an identity it knows, without waiting for the prefill leg.
fn decode(body: &Value, p: &Emulator, id: &str) -> Value {
    with_params(
        body,
        &json!({"do_remote_prefill": true, "do_remote_decode": false, "transfer_id": id,
            "remote_engine_id": p.state().engine_id, "remote_host": "127.0.0.1", "remote_port": p.kv_port(),
            "tp_size": 1, "transfer_mode": "push", "remote_request_id": "made-by-the-proxy"}),
    )
}

#[tokio::test]
async fn the_answer_of_a_prefill_leg_is_the_identity_that_a_decode_leg_needs() {
    let (p, d) = pair().await;
    for (path, body) in routes() {
        let answer = post(p.addr(), path, &prefill(path, &body, "xfer-1")).await.json();
        let identity = &answer["kv_transfer_params"];
        assert_eq!(identity["remote_engine_id"], p.state().engine_id);
        assert_eq!(identity["remote_port"], p.kv_port());
        assert_eq!((&identity["transfer_mode"], &identity["tp_size"]), (&json!("push"), &json!(1)));
        assert!(identity.get("remote_block_ids").is_none() && identity.get("transfer_id").is_none());
        let mut leg = decode_leg(&body, &answer, false);
        leg["kv_transfer_params"]["transfer_id"] = "xfer-1".into();
        assert_eq!(output(&post(d.addr(), path, &leg).await), alone(path, &body).await, "{path}");
        eventually("both idle", || p.state().idle() && d.state().idle()).await;
    }
    assert_eq!((d.state().totals.pulls, d.state().totals.computed_prompts), (5, 0));
}

#[tokio::test]
async fn the_legs_may_come_in_either_order() {
    let (p, d) = pair().await;
    let expected = alone(PATH, &prompt()).await;
    let waiting = Leg::send(d.addr(), PATH, &decode(&prompt(), &p, "x"));
    eventually("decode waits", || d.state().requests.waiting == 1).await;
    assert_eq!(post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await.status, StatusCode::OK);
    assert_eq!(output(&waiting.answer().await), expected);
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "y")).await;
    assert_eq!(p.state().leases[0].request_id, "y");
    assert_eq!(output(&post(d.addr(), PATH, &decode(&prompt(), &p, "y")).await), expected);
    eventually("both idle", || p.state().idle() && d.state().idle()).await;
}

#[tokio::test]
async fn a_restarted_prefill_engine_refuses_its_old_identity() {
    let (p, d) = pair().await;
    let stale = decode(&prompt(), &p, "x");
    p.restart();
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    refused(&post(d.addr(), PATH, &stale).await, "is gone; this is");
    assert_eq!(post(d.addr(), PATH, &decode(&prompt(), &p, "x")).await.status, StatusCode::OK);

    let waiting = Leg::send(d.addr(), PATH, &decode(&prompt(), &p, "y"));
    eventually("decode waits", || d.state().requests.waiting == 1).await;
    // Its registration may still be under way; either way the restart ends it.
    p.restart();
    refused(&waiting.answer().await, "KV load failed");
}

#[tokio::test]
async fn a_wrong_or_missing_field_is_an_error() {
    let (p, patient) = pair().await;
    let hasty = start(Config { rendezvous_timeout: SOON, ..Config::default() }).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    for (field, wrong, words) in [
        ("transfer_id", json!("y"), "nothing came from the other engine"),
        ("transfer_id", Value::Null, "no usable transfer_id"),
        ("remote_engine_id", json!("another"), "engine another is gone"),
        ("remote_engine_id", Value::Null, "no usable remote_engine_id"),
        ("remote_request_id", json!(""), "no usable remote_request_id"),
        ("remote_host", Value::Null, "no usable remote_host"),
        ("remote_port", json!(0), "no usable remote_port"),
        ("remote_port", json!(1), "KV load failed"),
        ("remote_port", json!(p.p2p_port()), "this is the p2p port"),
    ] {
        let mut leg = decode(&prompt(), &p, "x");
        leg["kv_transfer_params"][field] = wrong;
        let d = if words.contains("nothing came") { &hasty } else { &patient };
        refused(&post(d.addr(), PATH, &leg).await, words);
        assert!(d.state().idle());
    }
    let computed = patient.state().totals.computed_prompts + hasty.state().totals.computed_prompts;
    assert_eq!((computed, p.state().leases.len()), (0, 1));
}

#[tokio::test]
async fn params_of_push_mode_without_a_transfer_id_are_an_error() {
    let (p, d) = pair().await;
    let answer = post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await.json();
    refused(&post(d.addr(), PATH, &decode_leg(&prompt(), &answer, false)).await, "no usable transfer_id");
}

#[tokio::test]
async fn kv_that_nobody_registers_for_is_freed_when_the_lease_ends() {
    let p = start(Config { kv_lease: SOON, ..Config::default() }).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    eventually("expiry", || p.state().idle()).await;
    assert_eq!(p.state().totals.expired, 1);
}

#[tokio::test]
async fn a_decode_leg_that_leaves_lets_the_prefill_engine_free() {
    let (p, d) = pair().await;
    let waiting = Leg::send(d.addr(), PATH, &decode(&prompt(), &p, "x"));
    eventually("decode waits", || d.state().requests.waiting == 1).await;
    waiting.leave();
    eventually("decode is free", || d.state().idle()).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    eventually("the release", || p.state().idle()).await;
    assert_eq!((p.state().totals.releases_without_read, p.state().totals.expired), (1, 0));
}

#[tokio::test]
async fn a_transfer_id_is_for_one_pair_and_corrupted_kv_shows() {
    let (p, d) = pair().await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await;
    refused(&post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await, "in use by another request");
    p.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    let answer = output(&post(d.addr(), PATH, &decode(&prompt(), &p, "x")).await);
    assert_ne!(answer, alone(PATH, &prompt()).await);
    p.set_faults(Faults { drop_kv_params: true, ..Faults::default() });
    let answer = post(p.addr(), PATH, &prefill(PATH, &prompt(), "z")).await.json();
    assert!(answer["kv_transfer_params"].is_null());
}

#[tokio::test]
async fn an_engine_that_pulls_takes_a_transfer_id_for_nothing() {
    let config = |role| Config { role, connector: Some(Connector::Nixl), ..Config::default() };
    let (p, d) = (start(config(Role::Prefill)).await, start(config(Role::Decode)).await);
    let answer = post(p.addr(), PATH, &prefill(PATH, &prompt(), "x")).await.json();
    assert_eq!(answer["kv_transfer_params"]["transfer_mode"], "pull");
    let mut leg = decode_leg(&prompt(), &answer, false);
    leg["kv_transfer_params"]["transfer_id"] = "x".into();
    assert_eq!(output(&post(d.addr(), PATH, &leg).await), alone(PATH, &prompt()).await);
}
