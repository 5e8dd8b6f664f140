//! Nothing stays held: KV is freed by the release move, by aborts at every point, and not by bodies that
//! never became a request.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{decode_leg, eventually, output, post, prefill_leg, request, routes, send, start};
use http::{Method, StatusCode};
use kvferry_emulator::{Config, Emulator, Speeds};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const PATH: &str = "/v1/completions";

fn prompt(tokens: u32, max_tokens: u32) -> Value {
    json!({"model": "tiny", "prompt": (0..tokens).collect::<Vec<u32>>(), "max_tokens": max_tokens})
}

async fn pair() -> (Emulator, Emulator) {
    (start(Config::default()).await, start(Config::default()).await)
}

async fn prefill(engine: &Emulator, body: &Value) -> Value {
    post(engine.addr(), PATH, &prefill_leg(PATH, body)).await.json()
}

/// A request in flight; aborting it drops its connection.
fn in_flight(addr: SocketAddr, path: &'static str, body: &Value) -> JoinHandle<()> {
    let request = request(Method::POST, path, body.to_string());
    tokio::spawn(async move {
        let _ = send(addr, request).await;
    })
}

#[tokio::test]
async fn a_rejected_decode_request_releases_the_prefills_blocks() {
    let (p, d) = pair().await;
    for (path, body) in routes() {
        if path == "/inference/v1/generate" {
            continue;
        }
        for (what, status) in
            [("unknown model", StatusCode::NOT_FOUND), ("empty prompt", StatusCode::BAD_REQUEST)]
        {
            let handle = post(p.addr(), path, &prefill_leg(path, &body)).await.json();
            assert!(p.state().blocks.held.leased > 0, "{path}");
            let mut leg = decode_leg(&body, &handle, false);
            if what == "unknown model" {
                leg["model"] = "no-such-model".into();
            } else {
                leg["prompt"] = "".into();
                leg["messages"] = json!([]);
                leg["system"] = Value::Null;
                leg["input"] = "".into();
            }
            let answer = post(d.addr(), path, &leg).await;
            assert_eq!(answer.status, status, "{path} {what}: {}", answer.text());
            assert!(answer.json()["error"]["message"].is_string());
            eventually("the release", || p.state().idle()).await;
        }
    }
    let totals = p.state().totals;
    assert_eq!((totals.releases_without_read, totals.releases_after_read, totals.expired), (8, 0, 0));
    assert_eq!(d.state().totals.pulls, 0);
}

#[tokio::test]
async fn a_body_that_never_became_a_request_releases_nothing() {
    let (p, d) = pair().await;
    let body = prompt(40, 4);
    let mut leg = decode_leg(&body, &prefill(&p, &body).await, false);
    leg["max_tokens"] = "four".into();
    let answer = post(d.addr(), PATH, &leg).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["error"]["code"], 400);
    let cut = &leg.to_string()[1..];
    let answer = send(d.addr(), request(Method::POST, PATH, cut.to_owned())).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(p.state().leases.len(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_during_prefill_frees_at_once() {
    let (p, _d) = pair().await;
    p.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let leg = in_flight(p.addr(), PATH, &prefill_leg(PATH, &prompt(1000, 1)));
    eventually("prefill running", || p.state().requests.running == 1 && p.state().blocks.held.running > 0)
        .await;
    leg.abort();
    eventually("all free", || p.state().idle()).await;
    assert_eq!((p.state().totals.aborted, p.state().totals.prefills), (1, 0));
}

#[tokio::test]
async fn a_client_that_leaves_a_waiting_decode_request_releases_the_prefill() {
    let p = start(Config::default()).await;
    let d = start(Config { num_blocks: 8, ..Config::default() }).await;
    d.set_speeds(Speeds { itl_ms: 50, ..Speeds::default() });
    let hog = in_flight(d.addr(), PATH, &prompt(16, 112));
    eventually("the pool is full", || d.state().blocks.free == 0).await;
    let body = prompt(40, 4);
    let leg = in_flight(d.addr(), PATH, &decode_leg(&body, &prefill(&p, &body).await, true));
    eventually("the decode request waits", || d.state().requests.waiting == 1).await;
    assert_eq!(p.state().leases.len(), 1);
    leg.abort();
    eventually("the release", || p.state().idle()).await;
    assert_eq!(p.state().totals.releases_without_read, 1);
    hog.abort();
    eventually("decode idle", || d.state().idle()).await;
}

#[tokio::test]
async fn a_waiting_decode_request_keeps_its_lease_alive() {
    let kv_lease = Duration::from_millis(1500);
    let p = start(Config { kv_lease, ..Config::default() }).await;
    let d = start(Config { num_blocks: 8, kv_lease, ..Config::default() }).await;
    d.set_speeds(Speeds { itl_ms: 25, ..Speeds::default() });
    // 80 tokens at 25 ms and more: the wait is longer than the lease.
    let hog = in_flight(d.addr(), PATH, &prompt(16, 80));
    eventually("the pool is nearly full", || d.state().blocks.free == 2).await;
    let body = prompt(40, 4);
    let expected = output(&post(p.addr(), PATH, &body).await);
    let answer = post(d.addr(), PATH, &decode_leg(&body, &prefill(&p, &body).await, false)).await;
    assert_eq!(output(&answer), expected);
    assert_eq!(p.state().totals.expired, 0);
    hog.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_during_the_pull_still_ends_in_a_release_after_read() {
    let (p, d) = pair().await;
    p.set_speeds(Speeds { transfer_rate: 30_000, ..Speeds::default() });
    let body = prompt(160, 4);
    let leg = in_flight(d.addr(), PATH, &decode_leg(&body, &prefill(&p, &body).await, false));
    eventually("the pull runs", || d.state().requests.waiting == 1 && d.state().blocks.held.running > 0)
        .await;
    leg.abort();
    eventually("both idle", || p.state().idle() && d.state().idle()).await;
    assert_eq!(p.state().totals.releases_after_read, 1);
    assert_eq!((d.state().totals.aborted, d.state().totals.decodes), (1, 0));
}

#[tokio::test]
async fn a_client_that_leaves_during_decode_frees_at_once_streaming_and_not() {
    let (_p, d) = pair().await;
    d.set_speeds(Speeds { itl_ms: 200, ..Speeds::default() });
    for stream in [false, true] {
        let mut body = prompt(40, 1000);
        body["stream"] = stream.into();
        let leg = in_flight(d.addr(), PATH, &body);
        eventually("decode runs", || d.state().requests.running == 1).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        leg.abort();
        eventually("all free", || d.state().idle()).await;
    }
    assert_eq!(d.state().totals.aborted, 2);
}

#[tokio::test]
async fn a_restart_resets_connections_and_forgets_everything() {
    let (p, _d) = pair().await;
    prefill(&p, &prompt(40, 4)).await;
    p.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let addr = p.addr();
    let leg = tokio::spawn(async move {
        send(addr, request(Method::POST, PATH, prompt(1000, 1).to_string())).await.is_err()
    });
    eventually("prefill running", || p.state().requests.running == 1).await;
    let old = p.state().engine_id;
    let answer = post(p.addr(), "/emulator/restart", &json!({})).await;
    assert_eq!(answer.json()["engine_id"], p.state().engine_id.as_str());
    assert_ne!(p.state().engine_id, old);
    assert!(leg.await.unwrap(), "the running request must be cut off");
    assert!(p.state().idle());
    assert_eq!(p.state().totals.prefills, 0);
}
