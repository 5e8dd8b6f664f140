//! Offloading between peers: KV under a request id on the p2p port, and the cached start of a prompt from a third
//! engine.

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

fn prefill(path: &str, body: &Value, id: &str) -> Value {
    with_params(&prefill_leg(path, body), &json!({"remote_decoder": {"kv_request_id": id}}))
}

fn decode(body: &Value, p: &Emulator, id: &str) -> Value {
    let peer = json!({"kv_request_id": id, "remote_host": "127.0.0.1", "remote_port": p.p2p_port()});
    with_params(body, &json!({"remote_prefiller": peer}))
}

fn source(of: &Emulator) -> Value {
    json!({"kv_request_id": "fresh", "remote_host": "127.0.0.1", "remote_port": of.p2p_port()})
}

/// A prompt of several blocks: 100 tokens in blocks of 16.
fn long_prompt() -> Value {
    json!({"prompt": (0..100).collect::<Vec<u32>>(), "max_tokens": 4})
}

#[tokio::test]
async fn a_pair_answers_like_one_engine_whichever_leg_is_first() {
    let (p, d) = pair().await;
    for (path, body) in routes() {
        let expected = alone(path, &body).await;
        let answer = post(p.addr(), path, &prefill(path, &body, "a")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(p.state().leases[0].request_id, "a");
        assert_eq!(output(&post(d.addr(), path, &decode(&body, &p, "a")).await), expected, "{path}");
        let waiting = Leg::send(d.addr(), path, &decode(&body, &p, "b"));
        eventually("decode waits", || d.state().requests.waiting == 1).await;
        post(p.addr(), path, &prefill(path, &body, "b")).await;
        assert_eq!(output(&waiting.answer().await), expected, "{path}, decode first");
        eventually("both idle", || p.state().idle() && d.state().idle()).await;
    }
    assert_eq!((d.state().totals.pulls, d.state().totals.computed_prompts), (10, 0));
}

#[tokio::test]
async fn a_wrong_id_host_or_port_is_an_error() {
    let (p, patient) = pair().await;
    let hasty = start(Config { rendezvous_timeout: SOON, ..Config::default() }).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "a")).await;
    for (field, wrong, words) in [
        ("kv_request_id", json!("b"), "nothing came from the other engine"),
        ("kv_request_id", Value::Null, "no usable kv_request_id"),
        ("remote_host", Value::Null, "no usable remote_host"),
        ("remote_port", json!(1), "KV load failed"),
        ("remote_port", json!(p.kv_port()), "this is the KV port"),
        ("remote_port", json!(p.addr().port()), "KV load failed"),
        ("remote_port", Value::Null, "no usable remote_port"),
    ] {
        let mut leg = decode(&prompt(), &p, "a");
        leg["kv_transfer_params"]["remote_prefiller"][field] = wrong;
        let d = if words.contains("nothing came") { &hasty } else { &patient };
        refused(&post(d.addr(), PATH, &leg).await, words);
        assert!(d.state().idle());
    }
    let computed = patient.state().totals.computed_prompts + hasty.state().totals.computed_prompts;
    assert_eq!((computed, p.state().leases.len()), (0, 1));
    let missing = with_params(&prompt(), &json!({"remote_decoder": {}}));
    refused(&post(p.addr(), PATH, &missing).await, "no usable kv_request_id");
}

#[tokio::test]
async fn kv_that_nobody_fetches_is_freed_when_the_lease_ends() {
    let p = start(Config { kv_lease: SOON, ..Config::default() }).await;
    post(p.addr(), PATH, &prefill(PATH, &prompt(), "a")).await;
    eventually("expiry", || p.state().idle()).await;
    assert_eq!(p.state().totals.expired, 1);
}

#[tokio::test]
async fn a_source_that_has_the_prompt_saves_computing_it() {
    let (holder, user) = pair().await;
    let expected = output(&post(holder.addr(), PATH, &long_prompt()).await);
    let leg = with_params(&long_prompt(), &json!({"remote_kv_source": source(&holder)}));
    let answer = post(user.addr(), PATH, &leg).await;
    assert_eq!(output(&answer), expected);
    assert_eq!(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 96);
    let totals = user.state().totals;
    assert_eq!((totals.source_hits, totals.source_misses, totals.source_failures), (1, 0, 0));
    assert_eq!((totals.computed_prompts, totals.pulls), (0, 0));
    assert!(holder.state().idle() && user.state().idle());
}

#[tokio::test]
async fn only_the_common_start_comes_from_a_source() {
    let (holder, user) = pair().await;
    let mut longer: Vec<u32> = (0..100).collect();
    longer[50] = 7777;
    post(holder.addr(), PATH, &json!({"prompt": longer, "max_tokens": 1})).await;
    let leg = with_params(&long_prompt(), &json!({"remote_kv_source": source(&holder)}));
    let answer = post(user.addr(), PATH, &leg).await;
    assert_eq!(output(&answer), alone(PATH, &long_prompt()).await);
    assert_eq!(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 48);
}

#[tokio::test]
async fn a_corrupted_source_shows_in_the_answer() {
    let (holder, user) = pair().await;
    let expected = output(&post(holder.addr(), PATH, &long_prompt()).await);
    holder.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    let leg = with_params(&long_prompt(), &json!({"remote_kv_source": source(&holder)}));
    assert_ne!(output(&post(user.addr(), PATH, &leg).await), expected);
}

#[tokio::test]
async fn a_source_without_the_prompt_or_out_of_reach_is_counted_and_the_engine_computes() {
    let (holder, user) = pair().await;
    let expected = alone(PATH, &long_prompt()).await;
    let mut leg = with_params(&long_prompt(), &json!({"remote_kv_source": source(&holder)}));
    assert_eq!(output(&post(user.addr(), PATH, &leg).await), expected);
    assert_eq!((user.state().totals.source_misses, user.state().totals.computed_prompts), (1, 1));
    for wrong in [json!(1), json!(holder.kv_port())] {
        leg["kv_transfer_params"]["remote_kv_source"]["remote_port"] = wrong;
        assert_eq!(output(&post(user.addr(), PATH, &leg).await), expected);
    }
    assert_eq!((user.state().totals.source_failures, user.state().totals.source_hits), (2, 0));
    leg["kv_transfer_params"]["remote_kv_source"]["remote_port"] = Value::Null;
    refused(&post(user.addr(), PATH, &leg).await, "remote_kv_source has no usable remote_port");
}

#[tokio::test]
async fn a_prefill_leg_of_any_protocol_may_use_a_source() {
    let (p, d) = pair().await;
    let holder = start(Config::default()).await;
    let expected = output(&post(holder.addr(), PATH, &long_prompt()).await);
    let mut leg = prefill(PATH, &long_prompt(), "a");
    leg["kv_transfer_params"]["remote_kv_source"] = source(&holder);
    post(p.addr(), PATH, &leg).await;
    assert_eq!(output(&post(d.addr(), PATH, &decode(&long_prompt(), &p, "a")).await), expected);

    let mut leg = prefill_leg(PATH, &long_prompt());
    leg["kv_transfer_params"]["remote_kv_source"] = source(&holder);
    let answer = post(p.addr(), PATH, &leg).await.json();
    assert_eq!(
        output(&post(d.addr(), PATH, &common::decode_leg(&long_prompt(), &answer, false)).await),
        expected
    );
    assert_eq!((p.state().totals.source_hits, p.state().totals.computed_prompts), (2, 0));
}
