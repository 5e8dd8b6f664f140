//! The encode stage: an encoder hands out the bytes of one part, and the engine that computes the prompt fetches
//! them there or loads them from the encoder store.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use common::{SOON, alone, decode_leg, eventually, output, post, prefill_leg, refused, start};
use http::StatusCode;
use kvferry_emulator::{Config, Emulator, Faults, Role, SharedStore};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

async fn engine(role: Role) -> Emulator {
    start(Config { role, ..Config::default() }).await
}

fn image(name: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": format!("https://images.invalid/{name}")}})
}

fn audio() -> Value {
    json!({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}})
}

fn chat(parts: &[Value]) -> Value {
    let mut content = vec![json!({"type": "text", "text": "what do you see and hear?"})];
    content.extend_from_slice(parts);
    json!({"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 8})
}

/// The encoder request for one part, as a proxy makes it.
fn encode_leg(part: &Value) -> Value {
    json!({"model": "tiny", "max_tokens": 1, "stream": false,
        "messages": [{"role": "user", "content": [part]}]})
}

/// Encodes each part and returns the merged params.
async fn encode(encoder: &Emulator, parts: &[Value]) -> Value {
    let mut merged = serde_json::Map::new();
    for part in parts {
        let answer = post(encoder.addr(), CHAT, &encode_leg(part)).await.json();
        assert_eq!(answer["usage"]["completion_tokens"], 1, "{answer}");
        merged.extend(answer["ec_transfer_params"].as_object().unwrap().clone());
    }
    merged.into()
}

fn with_encoded(body: &Value, encoded: &Value) -> Value {
    let mut body = body.clone();
    body["ec_transfer_params"] = encoded.clone();
    body
}

#[tokio::test]
async fn encoded_parts_reach_the_engine_that_computes_and_the_answer_is_the_same() {
    let (e, p, d) = (engine(Role::Encode).await, engine(Role::Prefill).await, engine(Role::Decode).await);
    let parts = [image("cat"), audio()];
    let expected = alone(CHAT, &chat(&parts)).await;
    let encoded = encode(&e, &parts).await;
    assert_eq!((e.state().encoder.pinned, encoded.as_object().unwrap().len()), (2, 2));
    assert!(!e.state().idle());
    let body = with_encoded(&chat(&parts), &encoded);
    let answer = post(p.addr(), CHAT, &prefill_leg(CHAT, &body)).await.json();
    let answer = post(d.addr(), CHAT, &decode_leg(&body, &answer, false)).await;
    assert_eq!(output(&answer), expected);
    assert_eq!((p.state().totals.encoder_fetched, p.state().totals.encoded_here), (2, 0));
    assert_eq!((d.state().totals.encoder_fetched, d.state().totals.encoded_here), (0, 0));
    assert_eq!((e.state().totals.encoder_outputs, e.state().encoder.cached), (2, 2));
    eventually("all idle", || [&e, &p, &d].iter().all(|engine| engine.state().idle())).await;

    // Decoder only: it fetches for itself.
    let encoded = encode(&e, &parts).await;
    assert_eq!(output(&post(d.addr(), CHAT, &with_encoded(&chat(&parts), &encoded)).await), expected);
    assert_eq!(d.state().totals.encoder_fetched, 2);
}

#[tokio::test]
async fn parts_of_the_responses_route_are_encoded_too() {
    let (e, d) = (engine(Role::Encode).await, engine(Role::Decode).await);
    let part = json!({"type": "input_image", "image_url": "https://images.invalid/cat"});
    let body = json!({"model": "tiny", "max_output_tokens": 8, "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "what is it?"}]},
        {"type": "function_call_output", "call_id": "1", "output": [part]}]});
    let leg =
        json!({"model": "tiny", "max_output_tokens": 1, "input": [{"role": "user", "content": [part]}]});
    let encoded = post(e.addr(), RESPONSES, &leg).await.json()["ec_transfer_params"].clone();
    let answer = post(d.addr(), RESPONSES, &with_encoded(&body, &encoded)).await;
    assert_eq!(output(&answer), alone(RESPONSES, &body).await);
    assert_eq!((d.state().totals.encoder_fetched, d.state().totals.encoded_here), (1, 0));
}

#[tokio::test]
async fn a_part_that_nobody_encoded_is_encoded_here_and_counted() {
    let (e, d) = (engine(Role::Encode).await, engine(Role::Decode).await);
    let body = chat(&[image("cat"), image("dog"), image("cat")]);
    let encoded = encode(&e, &[image("cat")]).await;
    assert_eq!(output(&post(d.addr(), CHAT, &with_encoded(&body, &encoded)).await), alone(CHAT, &body).await);
    assert_eq!((d.state().totals.encoder_fetched, d.state().totals.encoded_here), (1, 1));
}

#[tokio::test]
async fn wrong_bytes_from_an_encoder_change_the_answer() {
    let (e, p, d) = (engine(Role::Encode).await, engine(Role::Prefill).await, engine(Role::Decode).await);
    let parts = [image("cat")];
    let body = with_encoded(&chat(&parts), &encode(&e, &parts).await);
    e.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
    let answer = post(p.addr(), CHAT, &prefill_leg(CHAT, &body)).await.json();
    let answer = post(d.addr(), CHAT, &decode_leg(&body, &answer, false)).await;
    assert_ne!(output(&answer), alone(CHAT, &chat(&parts)).await);
}

#[tokio::test]
async fn bytes_that_are_not_where_the_request_says_are_an_error() {
    let (e, d) = (engine(Role::Encode).await, engine(Role::Decode).await);
    let parts = [image("cat")];
    let encoded = encode(&e, &parts).await;
    let hash = encoded.as_object().unwrap().keys().next().unwrap().clone();
    for (field, wrong, words) in [
        ("peer_port", json!(1), "encoder output"),
        ("peer_port", json!(d.kv_port()), "is gone; this is"),
        ("peer_host", Value::Null, "no usable peer_host"),
        ("engine_id", json!("another"), "engine another is gone"),
    ] {
        let mut encoded = encoded.clone();
        encoded[&hash][field] = wrong;
        refused(&post(d.addr(), CHAT, &with_encoded(&chat(&parts), &encoded)).await, words);
    }
    e.restart();
    refused(&post(d.addr(), CHAT, &with_encoded(&chat(&parts), &encoded)).await, "is gone; this is");
    let fresh = encode(&e, &[image("dog")]).await;
    let mut other = encoded.clone();
    other[&hash]["engine_id"] = fresh.as_object().unwrap().values().next().unwrap()["engine_id"].clone();
    refused(&post(d.addr(), CHAT, &with_encoded(&chat(&parts), &other)).await, "no such encoder output");
    assert_eq!((d.state().totals.encoded_here, d.state().totals.encoder_fetched), (0, 0));
    assert!(d.state().idle());
}

#[tokio::test]
async fn an_output_that_nobody_fetches_is_unpinned_when_the_lease_ends() {
    let e = start(Config { role: Role::Encode, kv_lease: SOON, ..Config::default() }).await;
    encode(&e, &[image("cat")]).await;
    eventually("expiry", || e.state().idle()).await;
}

#[tokio::test]
async fn with_an_encoder_store_nothing_is_pinned_or_told() {
    let store = SharedStore::in_memory();
    let config = |role| Config { role, encoder_store: Some(store.clone()), ..Config::default() };
    let (e, d) = (start(config(Role::Encode)).await, start(config(Role::Decode)).await);
    let parts = [image("cat"), audio()];
    for part in &parts {
        let answer = post(e.addr(), CHAT, &encode_leg(part)).await;
        assert!(answer.json().get("ec_transfer_params").is_none(), "{}", answer.text());
    }
    assert_eq!((store.len(), e.state().idle()), (2, true));
    let expected = alone(CHAT, &chat(&parts)).await;
    assert_eq!(output(&post(d.addr(), CHAT, &chat(&parts)).await), expected);
    assert_eq!((d.state().totals.encoder_loaded, d.state().totals.encoded_here), (2, 0));
    store.corrupt();
    assert_ne!(output(&post(d.addr(), CHAT, &chat(&parts)).await), expected);
}

#[tokio::test]
async fn an_encoder_takes_exactly_one_part_and_does_nothing_else() {
    let e = engine(Role::Encode).await;
    let mut streamed = encode_leg(&audio());
    streamed["stream"] = true.into();
    for wrong in [chat(&[]), chat(&[image("a"), image("b")]), streamed] {
        assert_eq!(post(e.addr(), CHAT, &wrong).await.status, StatusCode::BAD_REQUEST);
    }
    let text = json!({"prompt": "hello", "max_tokens": 1});
    assert_eq!(post(e.addr(), "/v1/completions", &text).await.status, StatusCode::BAD_REQUEST);
    assert!(e.state().idle());
}
