//! Handoff through a shared store: what a prefill engine leaves there a decode engine loads, and a request can
//! ask to be declined when too little is there.

mod common;

use common::{TOKENS, alone, output, post, routes, start};
use http::StatusCode;
use kvferry_emulator::{Config, Emulator, Role, SharedStore};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

async fn pair(store: &SharedStore) -> (Emulator, Emulator) {
    let config = |role| Config { role, shared_store: Some(store.clone()), ..Config::default() };
    (start(config(Role::Prefill)).await, start(config(Role::Decode)).await)
}

/// 100 tokens in blocks of 16: six full blocks, 96 % of the prompt.
fn prompt() -> Value {
    json!({"prompt": (0..100).collect::<Vec<u32>>(), "max_tokens": TOKENS})
}

fn with_threshold(body: &Value, threshold: impl Into<Value>) -> Value {
    let mut body = body.clone();
    body["cache_hit_threshold"] = threshold.into();
    body
}

#[tokio::test]
async fn a_prompt_that_one_engine_stored_is_loaded_by_another() {
    let store = SharedStore::in_memory();
    let (p, d) = pair(&store).await;
    post(p.addr(), PATH, &with_threshold(&prompt(), 0)).await;
    assert_eq!((store.len(), p.state().totals.store_saved), (6, 6));
    let answer = post(d.addr(), PATH, &with_threshold(&prompt(), 0)).await;
    assert_eq!(output(&answer), alone(PATH, &prompt()).await);
    assert_eq!(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 96);
    let totals = d.state().totals;
    assert_eq!((totals.store_loaded, totals.computed_prompts, totals.store_saved), (6, 0, 0));
    assert!(p.state().idle() && d.state().idle());
}

#[tokio::test]
async fn a_folder_is_a_store_too() {
    let folder = std::env::temp_dir().join(format!("kvferry-shared-{}", std::process::id()));
    let (p, d) = pair(&SharedStore::in_folder(&folder).unwrap()).await;
    let expected = output(&post(p.addr(), PATH, &prompt()).await);
    assert_eq!(output(&post(d.addr(), PATH, &prompt()).await), expected);
    assert_eq!(d.state().totals.store_loaded, 6);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn changed_bytes_in_the_store_change_the_answer() {
    let store = SharedStore::in_memory();
    let (p, d) = pair(&store).await;
    let expected = output(&post(p.addr(), PATH, &prompt()).await);
    store.corrupt();
    assert_ne!(output(&post(d.addr(), PATH, &prompt()).await), expected);
}

#[tokio::test]
async fn a_decode_engine_that_finds_nothing_computes_and_says_so() {
    let (_p, d) = pair(&SharedStore::in_memory()).await;
    assert_eq!(output(&post(d.addr(), PATH, &prompt()).await), alone(PATH, &prompt()).await);
    assert_eq!((d.state().totals.computed_prompts, d.state().totals.store_loaded), (1, 0));
}

#[tokio::test]
async fn a_request_is_declined_without_a_token_when_too_little_is_cached() {
    let (p, d) = pair(&SharedStore::in_memory()).await;
    for (path, body) in routes().into_iter().filter(|(path, _)| path.contains("completions")) {
        for stream in [false, true] {
            let mut asked = with_threshold(&body, 0.5);
            asked["stream"] = stream.into();
            let answer = post(d.addr(), path, &asked).await;
            assert_eq!(output(&answer), "", "{path}");
            let event: Value = if stream {
                let text = answer.text();
                let mut events = text.split("\n\n").filter(|event| event.contains("cache_threshold"));
                serde_json::from_str(events.next().unwrap().strip_prefix("data: ").unwrap()).unwrap()
            } else {
                answer.json()
            };
            assert_eq!(event["choices"][0]["finish_reason"], "cache_threshold", "{event}");
        }
        post(p.addr(), path, &with_threshold(&body, 0)).await;
        assert_eq!(
            output(&post(d.addr(), path, &with_threshold(&body, 0.5)).await),
            alone(path, &body).await
        );
    }
    let totals = d.state().totals;
    assert_eq!((totals.declined, totals.computed_prompts), (4, 0));
    assert!(d.state().idle());
}

#[tokio::test]
async fn the_threshold_counts_what_the_engine_itself_has_seen() {
    let engine = start(Config::default()).await;
    let asked = with_threshold(&prompt(), 0.9);
    let declined = post(engine.addr(), PATH, &asked).await.json();
    assert_eq!(declined["usage"]["completion_tokens"], 0);
    // To decline is not to have seen.
    assert_eq!(output(&post(engine.addr(), PATH, &asked).await), "");
    post(engine.addr(), PATH, &prompt()).await;
    assert_eq!(output(&post(engine.addr(), PATH, &asked).await), alone(PATH, &prompt()).await);
    assert_eq!(output(&post(engine.addr(), PATH, &with_threshold(&prompt(), 0.97)).await), "");
}

#[tokio::test]
async fn a_threshold_is_a_number_from_0_to_1() {
    let engine = start(Config::default()).await;
    for wrong in [json!("0.5"), json!(true), json!(-0.1), json!(1.5)] {
        let answer = post(engine.addr(), PATH, &with_threshold(&prompt(), wrong)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
    let none = post(engine.addr(), PATH, &with_threshold(&prompt(), Value::Null)).await;
    assert_eq!(none.status, StatusCode::OK);
}
