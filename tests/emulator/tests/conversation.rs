//! KV that goes back: a decode engine keeps prompt and answer of a turn, and the next turn's prefill takes them.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::time::Duration;

use common::{SOON, alone, decode_leg, eventually, output, post, prefill_leg, refused, start};
use http::StatusCode;
use kvferry_emulator::{Config, Emulator, Faults, KvLoadFailure, Role};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const TTL: Duration = Duration::from_secs(480);

async fn pair(ttl: Duration) -> (Emulator, Emulator) {
    let decode = Config { role: Role::Decode, decoder_kv_ttl: Some(ttl), ..Config::default() };
    (start(Config { role: Role::Prefill, ..Config::default() }).await, start(decode).await)
}

fn first_turn() -> Value {
    json!({"model": "tiny", "max_tokens": 20, "messages": [
        {"role": "user", "content": "tell me about turtles, in as many words as it takes to fill some blocks"}]})
}

fn next_turn(answer: &str) -> Value {
    let mut body = first_turn();
    let turns = body["messages"].as_array_mut().unwrap();
    turns.push(json!({"role": "assistant", "content": answer}));
    turns.push(json!({"role": "user", "content": "and tortoises?"}));
    body
}

/// Runs a turn through the pair; `past` are the params of the turn before. Returns the answer of the decode leg.
async fn turn(p: &Emulator, d: &Emulator, body: &Value, past: Option<&Value>) -> Value {
    let answer = prefill(p, body, past).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    post(d.addr(), CHAT, &decode_leg(body, &answer.json(), false)).await.json()
}

async fn prefill(p: &Emulator, body: &Value, past: Option<&Value>) -> common::Answer {
    let mut leg = prefill_leg(CHAT, body);
    for (field, value) in past.and_then(Value::as_object).into_iter().flatten() {
        if field.starts_with("remote_") || field == "transfer_mode" {
            leg["kv_transfer_params"][field] = value.clone();
        }
    }
    post(p.addr(), CHAT, &leg).await
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn the_next_turn_takes_prompt_and_answer_of_the_turn_before() {
    let (p, d) = pair(TTL).await;
    let first = turn(&p, &d, &first_turn(), None).await;
    let past = &first["kv_transfer_params"];
    assert_eq!((&past["do_remote_decode"], &past["do_remote_prefill"]), (&json!(true), &json!(false)));
    // The last of 20 tokens has no KV.
    assert_eq!(past["remote_num_tokens"], first["usage"]["prompt_tokens"].as_u64().unwrap() + 19);
    assert_eq!(past["remote_engine_id"], d.state().engine_id);
    assert!(!d.state().idle() && p.state().idle());

    let body = next_turn(text(&first));
    let expected = alone(CHAT, &body).await;
    let second = turn(&p, &d, &body, Some(past)).await;
    assert_eq!(text(&second), expected);
    let totals = p.state().totals;
    assert_eq!((totals.reuse_pulls, totals.pulls, totals.computed_prompts), (1, 1, 1));
    assert_eq!(d.state().leases.len(), 1, "the first turn is freed, the second kept: {:?}", d.state());
    assert_eq!((d.state().totals.computed_prompts, d.state().totals.releases_after_read), (0, 1));
}

#[tokio::test]
async fn a_stream_carries_the_handle_in_its_last_data_frame() {
    let (_p, d) = pair(TTL).await;
    for (path, usage) in [(CHAT, false), (CHAT, true), ("/v1/completions", false), ("/v1/completions", true)]
    {
        let mut body = first_turn();
        body["prompt"] = "tell me about turtles".into();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": usage});
        let answer = post(d.addr(), path, &body).await;
        let text = answer.text();
        let frames: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(frames.last(), Some(&"[DONE]"));
        let last: Value = serde_json::from_str(frames[frames.len() - 2]).unwrap();
        assert_eq!(last["kv_transfer_params"]["do_remote_decode"], true, "{path}: {last}");
        assert_eq!(last.get("usage").is_some(), usage);
        assert_eq!(text.matches("kv_transfer_params").count(), 1);
        body["stream"] = false.into();
        assert_eq!(output(&answer), output(&post(d.addr(), path, &body).await));
    }
    assert_eq!(d.state().leases.len(), 8);
}

#[tokio::test]
async fn kept_blocks_are_freed_when_their_time_is_up_and_not_read_shortly_before() {
    let (p, d) = pair(SOON).await;
    let first = turn(&p, &d, &first_turn(), None).await;
    let body = next_turn(text(&first));
    let second = turn(&p, &d, &body, Some(&first["kv_transfer_params"])).await;
    assert_eq!(text(&second), alone(CHAT, &body).await);
    let totals = p.state().totals;
    assert_eq!((totals.reuse_expired, totals.reuse_pulls, totals.pull_refused), (1, 0, 0));
    eventually("expiry", || d.state().idle()).await;
    assert_eq!(d.state().totals.expired, 2);
}

#[tokio::test]
async fn a_last_turn_that_cannot_be_read_fails_the_prefill_or_is_computed_as_configured() {
    let (p, d) = pair(TTL).await;
    let lenient = start(Config { kv_load_failure: KvLoadFailure::Recompute, ..Config::default() }).await;
    let first = turn(&p, &d, &first_turn(), None).await;
    let body = next_turn(text(&first));
    let past = first["kv_transfer_params"].clone();
    for (field, wrong, words) in [
        ("remote_num_tokens", Value::Null, "no usable remote_num_tokens"),
        ("remote_host", Value::Null, "no usable remote_host"),
        ("remote_engine_id", json!("another"), "engine another is gone"),
        ("remote_request_id", json!("another"), "no such lease"),
        ("remote_port", json!(1), "KV load failed"),
        ("remote_block_ids", json!([[999]]), "KV load failed"),
    ] {
        let mut wrongly = past.clone();
        wrongly[field] = wrong;
        refused(&prefill(&p, &body, Some(&wrongly)).await, words);
        assert!(p.state().idle());
    }
    d.restart();
    refused(&prefill(&p, &body, Some(&past)).await, "is gone; this is");
    let answer = turn(&lenient, &d, &body, Some(&past)).await;
    assert_eq!(text(&answer), alone(CHAT, &body).await);
    assert_eq!((lenient.state().totals.pull_refused, lenient.state().totals.reuse_pulls), (1, 0));
}

#[tokio::test]
async fn a_last_turn_of_another_conversation_or_with_a_flipped_bit_changes_the_answer() {
    let (p, d) = pair(TTL).await;
    let first = turn(&p, &d, &first_turn(), None).await;
    let body = next_turn(text(&first));
    let expected = alone(CHAT, &body).await;
    d.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    assert_ne!(text(&turn(&p, &d, &body, Some(&first["kv_transfer_params"])).await), expected);

    let mut other = first_turn();
    other["messages"][0]["content"] =
        "tell me about turtles, in as many words as it takes to feed some foxes".into();
    let foreign = turn(&p, &d, &other, None).await;
    assert_ne!(text(&turn(&p, &d, &body, Some(&foreign["kv_transfer_params"])).await), expected);
}

#[tokio::test]
async fn only_single_answers_are_kept_and_only_where_configured() {
    let (p, d) = pair(TTL).await;
    let mut several = first_turn();
    several["n"] = 2.into();
    assert!(post(d.addr(), CHAT, &several).await.json()["kv_transfer_params"].is_null());
    let prompts = json!({"prompt": ["a", "b"], "max_tokens": 2});
    assert!(post(d.addr(), "/v1/completions", &prompts).await.json()["kv_transfer_params"].is_null());
    assert!(post(p.addr(), CHAT, &first_turn()).await.json()["kv_transfer_params"].is_null());
    assert!(p.state().idle() && d.state().idle());
}
