//! What this engine cannot do is refused, not ignored: an ignored stop string would be another answer.

mod common;

use common::{decode_leg, eventually, post, prefill_leg, prompt, routes, start};
use http::StatusCode;
use kvferry_emulator::Config;
use serde_json::{Value, json};

#[tokio::test]
async fn stop_strings_and_log_probabilities_are_refused_on_every_route() {
    let engine = start(Config::default()).await;
    let asked = [
        ("stop", json!("END")),
        ("stop", json!(["a", "b"])),
        ("stop_token_ids", json!([5])),
        ("logprobs", json!(true)),
        ("logprobs", json!(0)),
        ("top_logprobs", json!(2)),
        ("prompt_logprobs", json!(1)),
    ];
    for (path, body) in routes() {
        for (field, value) in &asked {
            let mut body = body.clone();
            match path {
                "/inference/v1/generate" => body["sampling_params"][*field] = value.clone(),
                _ => body[*field] = value.clone(),
            }
            let answer = post(engine.addr(), path, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {field}");
            assert!(answer.text().contains(&format!("{field} is not supported")), "{}", answer.text());
        }
    }
    let native = json!({"text": "a", "sampling_params": {"stop": ["b"]}});
    assert_eq!(post(engine.addr(), "/generate", &native).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn fields_that_ask_for_nothing_are_taken() {
    let engine = start(Config::default()).await;
    let nothing = [
        ("stop", Value::Null),
        ("stop", json!([])),
        ("logprobs", json!(false)),
        ("logprobs", Value::Null),
        ("top_logprobs", json!(0)),
        ("prompt_logprobs", Value::Null),
    ];
    for (field, value) in nothing {
        let mut body = prompt();
        body[field] = value;
        assert_eq!(post(engine.addr(), "/v1/completions", &body).await.status, StatusCode::OK, "{field}");
    }
}

#[tokio::test]
async fn a_decode_leg_that_is_refused_for_it_releases_the_prefills_blocks() {
    let (p, d) = (start(Config::default()).await, start(Config::default()).await);
    let path = "/v1/completions";
    let handle = post(p.addr(), path, &prefill_leg(path, &prompt())).await.json();
    let mut leg = decode_leg(&prompt(), &handle, false);
    leg["stop"] = "END".into();
    assert_eq!(post(d.addr(), path, &leg).await.status, StatusCode::BAD_REQUEST);
    eventually("the release", || p.state().idle()).await;
}
