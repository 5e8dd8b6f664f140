//! Requests ended from another connection: they answer what they had, and everything they held is free.

mod common;

use common::{Leg, eventually, post, prefill_leg, routes, start};
use http::{Method, StatusCode};
use kvferry_emulator::{Config, Speeds};
use serde_json::{Value, json};

const IDS: &str = "/inference/v1/abort_requests";

#[tokio::test]
async fn a_request_is_aborted_by_the_id_of_its_answer_and_no_other() {
    let engine = start(Config::default()).await;
    engine.set_speeds(Speeds { itl_ms: 20, ..Speeds::default() });
    let prefixes = ["chatcmpl-", "cmpl-", "chatcmpl-", "resp_", "generate-tokens-"];
    for ((path, mut body), prefix) in routes().into_iter().zip(prefixes) {
        for field in ["max_tokens", "max_output_tokens"] {
            body[field] = 1000.into();
        }
        if path == "/inference/v1/generate" {
            body["sampling_params"]["max_tokens"] = 1000.into();
        }
        let mut request = common::request(Method::POST, path, body.to_string());
        request.headers_mut().insert("x-request-id", "mine".parse().unwrap());
        let addr = engine.addr();
        let running = tokio::spawn(async move { common::send(addr, request).await.unwrap() });
        eventually("it runs", || engine.state().requests.running == 1).await;
        let others = json!({"request_ids": ["mine", "chatcmpl-other", format!("{prefix}mine-7")]});
        assert_eq!(post(addr, IDS, &others).await.status, StatusCode::OK);
        assert_eq!(engine.state().requests.running, 1);
        let ids = json!({"request_ids": [format!("{prefix}mine")]});
        assert_eq!(post(addr, IDS, &ids).await.status, StatusCode::OK);
        let answer = running.await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.text().contains("\"abort\""), "{path}: {}", answer.text());
        eventually("all free", || engine.state().idle()).await;
    }
    assert_eq!(engine.state().totals.aborted, 5);
}

#[tokio::test]
async fn an_aborted_stream_ends_with_its_reason_and_usage() {
    let engine = start(Config::default()).await;
    engine.set_speeds(Speeds { itl_ms: 20, ..Speeds::default() });
    let body = json!({"prompt": "hello", "max_tokens": 1000, "stream": true, "rid": "r",
        "stream_options": {"include_usage": true}});
    let running = Leg::send(engine.addr(), "/v1/completions", &body);
    eventually("it runs", || engine.state().requests.running == 1).await;
    post(engine.addr(), "/abort_request", &json!({"abort_all": true})).await;
    let text = running.answer().await.text();
    assert!(text.contains("\"finish_reason\":\"abort\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
    assert!(text.contains("\"completion_tokens\""), "{text}");
}

#[tokio::test]
async fn an_aborted_prefill_leg_leaves_no_lease() {
    let engine = start(Config::default()).await;
    engine.set_speeds(Speeds { prefill_rate: 10, ..Speeds::default() });
    let body = json!({"prompt": (0..1000).collect::<Vec<u32>>(), "max_tokens": 1, "rid": "r"});
    let running = Leg::send(engine.addr(), "/v1/completions", &prefill_leg("/v1/completions", &body));
    eventually("it runs", || engine.state().requests.running == 1).await;
    post(engine.addr(), "/abort_request", &json!({"rid": "r"})).await;
    let answer = running.answer().await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "abort");
    assert!(answer["kv_transfer_params"].is_null() && engine.state().idle());
}

#[tokio::test]
async fn an_abort_without_names_is_refused() {
    let engine = start(Config::default()).await;
    for wrong in [json!({}), json!({"request_ids": "a"}), json!({"request_ids": [1]}), Value::Null] {
        assert_eq!(post(engine.addr(), IDS, &wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}
