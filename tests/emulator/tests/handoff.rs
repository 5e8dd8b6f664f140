//! A prefill/decode pair answers exactly what one engine answers alone, on every route, and anything wrong
//! with the KV shows.

mod common;

use common::{PATIENCE, TOKENS, decode_leg, eventually, get, output, post, prefill_leg, routes, start};
use http::StatusCode;
use kvferry_emulator::{Config, Emulator, Faults, KvLoadFailure, Role, Speeds};
use serde_json::{Value, json};
use std::time::Duration;

async fn pair() -> (Emulator, Emulator) {
    let prefill = start(Config { role: Role::Prefill, ..Config::default() }).await;
    let decode = start(Config { role: Role::Decode, ..Config::default() }).await;
    (prefill, decode)
}

/// Prefills `body` and returns the answer with the handle.
async fn prefill(engine: &Emulator, path: &str, body: &Value) -> Value {
    let answer = post(engine.addr(), path, &prefill_leg(path, body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["kv_transfer_params"]["do_remote_prefill"], true, "{answer}");
    answer
}

#[tokio::test]
async fn a_pair_answers_like_one_engine_on_every_route_streaming_and_not() {
    let (p, d) = pair().await;
    let alone = start(Config::default()).await;
    for (path, body) in routes() {
        let expected = output(&post(alone.addr(), path, &body).await);
        assert!(expected.len() > TOKENS, "{path}: {expected:?}");
        for stream in [false, true] {
            let handle = prefill(&p, path, &body).await;
            let answer = post(d.addr(), path, &decode_leg(&body, &handle, stream)).await;
            assert_eq!(output(&answer), expected, "{path} stream={stream}");
            eventually("both idle", || p.state().idle() && d.state().idle()).await;
        }
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        assert_eq!(output(&post(alone.addr(), path, &streamed).await), expected, "{path} aggregated stream");
    }
    let (p, d) = (p.state().totals, d.state().totals);
    assert_eq!((p.prefills, p.releases_after_read, p.expired), (10, 10, 0));
    assert_eq!((d.decodes, d.pulls, d.pull_refused), (10, 10, 0));
    assert!(d.pull_bytes > 0);
}

#[tokio::test]
async fn every_byte_of_the_prompts_blocks_is_pulled() {
    let (p, d) = pair().await;
    let ids: Vec<u32> = (0..100).collect();
    let body = json!({"prompt": ids, "max_tokens": 2});
    let handle = prefill(&p, "/v1/completions", &body).await;
    assert_eq!(handle["kv_transfer_params"]["remote_num_tokens"], 100);
    post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await;
    // 100 tokens in blocks of 16 at 64 bytes a token.
    assert_eq!(d.state().totals.pull_bytes, 7 * 16 * 64);
    let metrics = get(d.addr(), "/metrics").await.text();
    assert!(
        metrics.contains("vllm:nixl_bytes_transferred_sum{engine=\"0\",model_name=\"tiny\"} 7168.0"),
        "{metrics}"
    );
}

#[tokio::test]
async fn corrupted_kv_gives_a_different_answer() {
    let (p, d) = pair().await;
    for (path, body) in routes() {
        let expected = output(&post(d.addr(), path, &body).await);
        let handle = prefill(&p, path, &body).await;
        p.set_faults(Faults { corrupt_kv: true, times: Some(1), ..Faults::default() });
        let answer = output(&post(d.addr(), path, &decode_leg(&body, &handle, false)).await);
        assert_ne!(answer, expected, "{path}");
    }
}

#[tokio::test]
async fn kv_of_another_prompt_gives_a_different_answer() {
    let (p, d) = pair().await;
    let body = json!({"prompt": "one two three four five six", "max_tokens": TOKENS});
    let other = json!({"prompt": "one two three four five sax", "max_tokens": TOKENS});
    let expected = output(&post(d.addr(), "/v1/completions", &body).await);
    let handle = prefill(&p, "/v1/completions", &other).await;
    let answer = output(&post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await);
    assert_ne!(answer, expected);
}

#[tokio::test]
async fn kv_that_is_too_short_is_an_error() {
    let (p, d) = pair().await;
    let short = json!({"prompt": (0..10).collect::<Vec<u32>>(), "max_tokens": 4});
    let long = json!({"prompt": (0..30).collect::<Vec<u32>>(), "max_tokens": 4});
    let handle = prefill(&p, "/v1/completions", &short).await;
    let answer = post(d.addr(), "/v1/completions", &decode_leg(&long, &handle, false)).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.text().contains("needs 2 blocks, the handle lists 1"), "{}", answer.text());
}

#[tokio::test]
async fn engines_with_different_blocks_do_not_mix() {
    let p = start(Config::default()).await;
    let d = start(Config { kv_bytes_per_token: 128, ..Config::default() }).await;
    let body = json!({"prompt": "hello there", "max_tokens": 4});
    let handle = prefill(&p, "/v1/completions", &body).await;
    let answer = post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_handle_from_before_a_restart_is_refused() {
    let (p, d) = pair().await;
    let body = json!({"model": "tiny", "prompt": "hello there", "max_tokens": 4});
    let handle = prefill(&p, "/v1/completions", &body).await;
    let before = p.state().engine_id;
    p.restart();
    assert_ne!(p.state().engine_id, before);
    assert!(p.state().idle());
    for stream in [false, true] {
        let answer = post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, stream)).await;
        assert!(answer.text().contains("KV load failed"), "{}", answer.text());
        let status = if stream { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        assert_eq!(answer.status, status);
    }
    assert_eq!((d.state().totals.pull_refused, d.state().totals.aborted), (2, 0));
    assert!(d.state().idle());
}

#[tokio::test]
async fn a_handle_works_once() {
    let (p, d) = pair().await;
    let body = json!({"prompt": "hello there", "max_tokens": 4});
    let handle = prefill(&p, "/v1/completions", &body).await;
    let leg = decode_leg(&body, &handle, false);
    assert_eq!(post(d.addr(), "/v1/completions", &leg).await.status, StatusCode::OK);
    assert_eq!(post(d.addr(), "/v1/completions", &leg).await.status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn a_foreign_block_is_refused() {
    let (p, d) = pair().await;
    let body = json!({"prompt": "hello there", "max_tokens": 4});
    let mut handle = prefill(&p, "/v1/completions", &body).await;
    handle["kv_transfer_params"]["remote_block_ids"] = json!([[77]]);
    let answer = post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await;
    assert!(answer.text().contains("not part of this lease"), "{}", answer.text());
}

#[tokio::test]
async fn params_without_an_address_are_an_error_and_null_params_mean_local() {
    let d = start(Config::default()).await;
    let mut body =
        json!({"prompt": "hello there", "max_tokens": 4, "kv_transfer_params": {"do_remote_prefill": true}});
    let answer = post(d.addr(), "/v1/completions", &body).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    body["kv_transfer_params"] = Value::Null;
    assert_eq!(post(d.addr(), "/v1/completions", &body).await.status, StatusCode::OK);
}

#[tokio::test]
async fn recompute_answers_right_after_a_refused_pull() {
    let p = start(Config::default()).await;
    let d = start(Config { kv_load_failure: KvLoadFailure::Recompute, ..Config::default() }).await;
    let body = json!({"prompt": "hello there", "max_tokens": 4});
    let expected = output(&post(p.addr(), "/v1/completions", &body).await);
    let handle = prefill(&p, "/v1/completions", &body).await;
    p.restart();
    let answer = post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await;
    assert_eq!(output(&answer), expected);
    assert_eq!(d.state().totals.pull_refused, 1);
}

#[tokio::test]
async fn transfer_rate_and_prefill_rate_take_their_time() {
    let (p, d) = pair().await;
    let body = json!({"prompt": (0..160).collect::<Vec<u32>>(), "max_tokens": 2});
    p.set_speeds(Speeds { prefill_rate: 1600, transfer_rate: 102_400, ..Speeds::default() });
    let begun = std::time::Instant::now();
    let handle = prefill(&p, "/v1/completions", &body).await;
    assert!(begun.elapsed() >= Duration::from_millis(95), "{:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await;
    assert!(begun.elapsed() >= Duration::from_millis(85), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_prefill_of_the_same_prompt_reports_cached_tokens() {
    let (p, _d) = pair().await;
    let body = json!({"prompt": (0..40).collect::<Vec<u32>>(), "max_tokens": 4});
    let cached = |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].clone();
    assert_eq!(cached(&prefill(&p, "/v1/completions", &body).await), 0);
    let again = prefill(&p, "/v1/completions", &body).await;
    assert_eq!(cached(&again), 32);
    assert_eq!(again["usage"]["prompt_tokens"], 40);
    assert_eq!(again["usage"]["completion_tokens"], 1);
}

#[tokio::test]
async fn a_lease_in_use_outlives_its_length_and_an_unused_one_expires() {
    let p = start(Config { kv_lease: Duration::from_millis(600), ..Config::default() }).await;
    let d = start(Config::default()).await;
    let body = json!({"prompt": (0..160).collect::<Vec<u32>>(), "max_tokens": 2});
    let handle = prefill(&p, "/v1/completions", &body).await;
    // Ten blocks of 1 KiB in one second: longer than the lease, but each block prolongs it.
    p.set_speeds(Speeds { transfer_rate: 10_240, ..Speeds::default() });
    let answer = post(d.addr(), "/v1/completions", &decode_leg(&body, &handle, false)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(p.state().totals.expired, 0);

    prefill(&p, "/v1/completions", &body).await;
    assert_eq!(p.state().blocks.held.leased, 10);
    tokio::time::timeout(PATIENCE, eventually("expiry", || p.state().idle())).await.unwrap();
    assert_eq!(p.state().totals.expired, 1);
}
