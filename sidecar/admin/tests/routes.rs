//! What each route answers.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use common::{Says, ask, get, start};
use kvferry_admin::Condition;
use serde_json::json;

#[test]
fn metrics_go_out_as_they_are_with_their_media_type() {
    let text = "a 1\n".repeat(50_000);
    let (admin, _) = start(Says { metrics: text.clone(), ..Says::default() }, None);
    let answer = get(&admin, "/metrics?x=1");
    assert_eq!((answer.status, answer.body == text), (200, true));
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    assert!(answer.head.contains("cache-control: no-store"), "{}", answer.head);
}

#[test]
fn ready_is_200_or_503_with_every_reason() {
    let (admin, source) = start(Says::default(), None);
    let answer = get(&admin, "/ready");
    assert_eq!((answer.status, answer.json()), (200, json!({ "ready": true, "reasons": [] })));

    source.readiness.lock().unwrap().draining = true;
    source.readiness.lock().unwrap().decoder = Condition::Missing("connection refused".to_owned());
    let answer = get(&admin, "/ready");
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.json(),
        json!({ "ready": false, "reasons": [
            { "condition": "draining", "reason": "the process is shutting down" },
            { "condition": "decoder", "reason": "connection refused" },
        ]})
    );
}

#[test]
fn live_is_503_only_for_what_does_not_heal() {
    let (admin, source) = start(Says::default(), None);
    source.readiness.lock().unwrap().decoder = Condition::Missing("connection refused".to_owned());
    assert_eq!(get(&admin, "/live").status, 200);
    *source.broken.lock().unwrap() = Some("worker 3 is gone".to_owned());
    let answer = get(&admin, "/live");
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (503, Some("worker 3 is gone")));
}

#[test]
fn requests_are_listed_with_their_state() {
    let (admin, _) = start(Says::default(), None);
    let answer = get(&admin, "/debug/requests").json();
    assert_eq!(
        answer,
        json!({ "total": 2, "requests": [
            { "id": "r-0", "api": "chat_completions", "stage": "decode", "since_ms": 1234,
              "prefill_target": "10.0.0.1:8000", "bytes_in": 10, "bytes_out": u64::MAX },
            { "id": "r-1", "api": "chat_completions", "stage": "decode", "since_ms": 1234,
              "bytes_in": 10, "bytes_out": u64::MAX },
        ]})
    );
}

#[test]
fn the_list_is_bounded_and_says_how_many_there_are() {
    let (admin, _) = start(Says { total: 5_000, ..Says::default() }, None);
    let answer = get(&admin, "/debug/requests").json();
    assert_eq!(answer["total"], 5_000);
    assert_eq!(answer["requests"].as_array().unwrap().len(), 1_000);
}

#[test]
fn the_log_level_changes_by_body_or_query_and_is_told() {
    let (admin, _) = start(Says::default(), None);
    assert_eq!(get(&admin, "/log-level").json(), json!({ "level": "info" }));
    assert_eq!(ask(&admin, "PUT", "/log-level", " debug\n").json(), json!({ "level": "debug" }));
    assert_eq!(ask(&admin, "PUT", "/log-level?level=error", "").json(), json!({ "level": "error" }));
    let directives = ask(&admin, "PUT", "/log-level?level=info,proxy=debug", "");
    assert_eq!(directives.json(), json!({ "level": "info,proxy=debug" }));
    assert_eq!(get(&admin, "/log-level").json(), json!({ "level": "info,proxy=debug" }));
}

#[test]
fn a_wrong_log_level_changes_nothing_and_is_explained() {
    let (admin, _) = start(Says::default(), None);
    let answer = ask(&admin, "PUT", "/log-level", "loud");
    assert_eq!((answer.status, answer.json()["error"].as_str()), (400, Some(r#""loud" is no log level"#)));
    assert_eq!(ask(&admin, "PUT", "/log-level", "").status, 400);
    assert_eq!(ask(&admin, "PUT", "/log-level", &"x".repeat(2_000)).status, 413);
    assert_eq!(get(&admin, "/log-level").json(), json!({ "level": "info" }));
}

#[test]
fn wrong_paths_and_methods_are_told_the_routes() {
    let (admin, _) = start(Says::default(), None);
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("POST", "/v1/chat/completions", 404),
        ("POST", "/metrics", 405),
        ("PUT", "/ready", 405),
        ("DELETE", "/log-level", 405),
    ] {
        let answer = ask(&admin, method, target, "");
        assert_eq!(answer.status, status, "{method} {target}");
        let routes = answer.json()["routes"].to_string();
        for route in ["/metrics", "/ready", "/live", "/debug/requests", "PUT /log-level"] {
            assert!(routes.contains(route), "{routes}");
        }
        assert_eq!(answer.head.contains("\r\nallow: get, head"), status == 405, "{}", answer.head);
    }
}

#[test]
fn head_has_the_status_without_a_body() {
    let (admin, _) = start(Says::default(), None);
    let answer = ask(&admin, "HEAD", "/ready", "");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}
