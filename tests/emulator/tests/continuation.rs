//! An answer in chunks, each continuing the one before, is the answer in one piece.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use common::{decode_leg, output, post, prefill_leg, start};
use http::StatusCode;
use kvferry_emulator::Config;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn chat(max_tokens: usize) -> Value {
    json!({"model": "tiny", "max_tokens": max_tokens, "messages": [
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "tell me about turtles"}]})
}

/// The request for the next chunk: the text so far as the final message.
fn continued(text: &str, max_tokens: usize) -> Value {
    let mut body = chat(max_tokens);
    body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": text}));
    body["continue_final_message"] = true.into();
    body["add_generation_prompt"] = false.into();
    body
}

#[tokio::test]
async fn chunks_joined_equal_the_answer_in_one_piece_also_after_a_handoff() {
    let (p, d) = (start(Config::default()).await, start(Config::default()).await);
    let whole = post(p.addr(), CHAT, &chat(20)).await.json();
    let prefill = post(p.addr(), CHAT, &prefill_leg(CHAT, &chat(20))).await.json();
    let mut text = output(&post(d.addr(), CHAT, &decode_leg(&chat(7), &prefill, false)).await);
    for max_tokens in [7, 6] {
        let answer = post(d.addr(), CHAT, &continued(&text, max_tokens)).await;
        assert_eq!(answer.json()["choices"][0]["finish_reason"], "length");
        text.push_str(&output(&answer));
    }
    assert_eq!(text, whole["choices"][0]["message"]["content"].as_str().unwrap());
}

#[tokio::test]
async fn usage_of_a_chunk_counts_the_text_before_it_as_prompt() {
    let engine = start(Config::default()).await;
    let first = post(engine.addr(), CHAT, &chat(7)).await.json();
    let text = first["choices"][0]["message"]["content"].as_str().unwrap();
    let second = post(engine.addr(), CHAT, &continued(text, 5)).await.json();
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(second["usage"]["prompt_tokens"], prompt + 7);
    assert_eq!(second["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn a_beginning_by_the_client_is_continued_in_chunks_too() {
    let engine = start(Config::default()).await;
    let begun = "Turtles are slow tomato";
    let whole = output(&post(engine.addr(), CHAT, &continued(begun, 10)).await);
    let first = output(&post(engine.addr(), CHAT, &continued(begun, 4)).await);
    let second = output(&post(engine.addr(), CHAT, &continued(&format!("{begun}{first}"), 6)).await);
    assert_eq!(format!("{first}{second}"), whole);
}

#[tokio::test]
async fn chunks_piled_up_as_messages_of_their_own_are_another_conversation() {
    let engine = start(Config::default()).await;
    let whole = output(&post(engine.addr(), CHAT, &chat(12)).await);
    let first = output(&post(engine.addr(), CHAT, &chat(4)).await);
    let second = output(&post(engine.addr(), CHAT, &continued(&first, 4)).await);
    let mut piled = continued(&first, 4);
    piled["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": second}));
    let third = output(&post(engine.addr(), CHAT, &piled).await);
    assert_ne!(format!("{first}{second}{third}"), whole);
}

#[tokio::test]
async fn a_final_message_is_not_continued_and_answered_at_once() {
    let engine = start(Config::default()).await;
    let mut body = continued("-bafiku", 4);
    for both in [json!(true), Value::Null] {
        body["add_generation_prompt"] = both;
        assert_eq!(post(engine.addr(), CHAT, &body).await.status, StatusCode::BAD_REQUEST);
    }
    body["continue_final_message"] = "yes".into();
    assert_eq!(post(engine.addr(), CHAT, &body).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn token_ids_of_chunks_join_too() {
    let engine = start(Config::default()).await;
    let ids = |answer: &Value| answer["choices"][0]["token_ids"].as_array().unwrap().clone();
    let shown = |mut body: Value| {
        body["return_token_ids"] = true.into();
        body
    };
    let whole = post(engine.addr(), CHAT, &shown(chat(9))).await.json();
    let first = post(engine.addr(), CHAT, &shown(chat(4))).await.json();
    let text = first["choices"][0]["message"]["content"].as_str().unwrap();
    let second = post(engine.addr(), CHAT, &shown(continued(text, 5))).await.json();
    assert_eq!([ids(&first), ids(&second)].concat(), ids(&whole));
    let prompt = |answer: &Value| answer["prompt_token_ids"].as_array().unwrap().clone();
    assert_eq!(prompt(&second), [prompt(&first), ids(&first)].concat());
}
