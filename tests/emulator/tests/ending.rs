//! Answers that end by themselves: as clients see them, what a request can say against it, and what becomes of the KV.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use common::{SOON, alone, output, post, prefill_leg, refused, routes, start, with_params};
use http::StatusCode;
use kvferry_emulator::{Config, Role};
use serde_json::{Value, json};

/// The token with which answers end here.
const END: usize = 5;

fn ending(stop_after: usize) -> Config {
    Config { stop_after: Some(stop_after), ..Config::default() }
}

/// `body` with another output limit, in its route's own word.
fn limited(path: &str, body: &Value, tokens: usize) -> Value {
    let mut body = body.clone();
    match path {
        "/v1/responses" => body["max_output_tokens"] = tokens.into(),
        "/inference/v1/generate" => body["sampling_params"]["max_tokens"] = tokens.into(),
        _ => body["max_tokens"] = tokens.into(),
    }
    body
}

/// Where its route's clients look for why an answer ended.
fn reason(answer: &Value) -> &str {
    let places = ["/choices/0/finish_reason", "/stop_reason", "/status"];
    places.iter().find_map(|place| answer.pointer(place)?.as_str()).unwrap()
}

#[tokio::test]
async fn an_answer_ends_by_itself_before_its_limit_and_says_so_in_its_routes_own_words() {
    let engine = start(ending(END)).await;
    for (path, mut body) in routes() {
        let (stopped, cut) = match path {
            "/v1/messages" => ("end_turn", "max_tokens"),
            "/v1/responses" => ("completed", "incomplete"),
            _ => ("stop", "length"),
        };
        let expected = alone(path, &limited(path, &body, END)).await;
        let answer = post(engine.addr(), path, &body).await;
        assert_eq!((output(&answer), reason(&answer.json())), (expected.clone(), stopped), "{path}");
        // The end comes first, also where it is at the limit.
        let tight = post(engine.addr(), path, &limited(path, &body, END)).await;
        assert_eq!(reason(&tight.json()), stopped, "{path}");
        let short = post(engine.addr(), path, &limited(path, &body, END - 1)).await;
        assert_eq!(reason(&short.json()), cut, "{path}");
        body["stream"] = true.into();
        let streamed = post(engine.addr(), path, &body).await;
        assert_eq!(output(&streamed), expected, "{path}");
        assert!(streamed.text().contains(&format!("\"{stopped}\"")), "{path}: {}", streamed.text());
    }
}

#[tokio::test]
async fn a_request_can_forbid_an_early_end_where_its_api_has_words_for_that() {
    let engine = start(ending(1)).await;
    for (path, body) in routes() {
        let tokens = |answer: &Value| {
            let usage = &answer["usage"];
            usage.get("completion_tokens").or(usage.get("output_tokens")).unwrap().as_u64().unwrap()
        };
        let with = |name: &str, value: Value| {
            let mut body = body.clone();
            let place =
                if path == "/inference/v1/generate" { &mut body["sampling_params"] } else { &mut body };
            place[name] = value;
            body
        };
        let (least, ignoring) = match path {
            "/v1/messages" => (1, 1),
            "/v1/responses" => (1, 12),
            _ => (4, 12),
        };
        for (body, expected) in
            [(with("min_tokens", 3.into()), least), (with("ignore_eos", true.into()), ignoring)]
        {
            let answer = post(engine.addr(), path, &body).await.json();
            assert_eq!(tokens(&answer), expected, "{path}: {body}");
        }
    }
}

#[tokio::test]
async fn a_mooncake_prefill_that_ended_by_itself_hands_nothing_over() {
    let p = start(Config { role: Role::Prefill, ..ending(1) }).await;
    let d = start(Config { role: Role::Decode, rendezvous_timeout: SOON, ..Config::default() }).await;
    for (path, body) in routes() {
        let params = json!({"do_remote_prefill": false, "do_remote_decode": true, "transfer_id": path});
        let answer = post(p.addr(), path, &with_params(&prefill_leg(path, &body), &params)).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert!(p.state().idle(), "{path}: {:?}", p.state().leases);
        let params = json!({"do_remote_prefill": true, "do_remote_decode": false, "transfer_id": path,
            "remote_bootstrap_addr": format!("http://127.0.0.1:{}", p.bootstrap_port()),
            "remote_engine_id": p.state().engine_id});
        refused(&post(d.addr(), path, &with_params(&body, &params)).await, "KV load failed");
    }
}
