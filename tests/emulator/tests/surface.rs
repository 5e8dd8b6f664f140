//! The HTTP surface: answer shapes, usage, the recorded requests, echo, upgrade, metrics.

mod common;

use bytes::Bytes;
use common::{TOKENS, get, output, post, request, routes, send, start};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use kvferry_emulator::{Config, Role, SeenRequest, State};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn usage_counts_tokens_in_each_routes_own_words() {
    let engine = start(Config::default()).await;
    for (path, body) in routes() {
        let answer = post(engine.addr(), path, &body).await.json();
        let usage = &answer["usage"];
        let (prompt, completion) = match path {
            "/v1/messages" | "/v1/responses" => ("input_tokens", "output_tokens"),
            _ => ("prompt_tokens", "completion_tokens"),
        };
        assert!(usage[prompt].as_u64().unwrap() > 10, "{path}: {usage}");
        assert_eq!(usage[completion], TOKENS, "{path}");
    }
}

#[tokio::test]
async fn streams_carry_usage_only_when_asked_and_end_with_the_marker() {
    let engine = start(Config::default()).await;
    for path in ["/v1/chat/completions", "/v1/completions", "/inference/v1/generate"] {
        let (_, mut body) = routes().into_iter().find(|(route, _)| *route == path).unwrap();
        body["stream"] = true.into();
        let plain = post(engine.addr(), path, &body).await.text();
        assert!(
            plain.ends_with("\n\ndata: [DONE]\n\n") && !plain.contains("\"completion_tokens\""),
            "{plain}"
        );
        body["stream_options"] = json!({"include_usage": true});
        let with_usage = post(engine.addr(), path, &body).await.text();
        assert_eq!(with_usage.matches(&format!("\"completion_tokens\":{TOKENS}")).count(), 1, "{with_usage}");
    }
}

#[tokio::test]
async fn named_events_of_messages_and_responses_are_complete() {
    let engine = start(Config::default()).await;
    let ends = [("/v1/messages", "message_stop"), ("/v1/responses", "response.completed")];
    for (path, last) in ends {
        let (_, mut body) = routes().into_iter().find(|(route, _)| *route == path).unwrap();
        body["stream"] = true.into();
        let text = post(engine.addr(), path, &body).await.text();
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names.last(), Some(&last));
        assert_eq!(
            names.iter().filter(|name| name.contains("delta")).count(),
            TOKENS + usize::from(path == "/v1/messages")
        );
        for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(data).unwrap();
            assert!(names.contains(&event["type"].as_str().unwrap()));
        }
    }
}

#[tokio::test]
async fn choices_are_equal_and_token_ids_are_shown_on_request() {
    let engine = start(Config::default()).await;
    let body = json!({"prompt": [5, 6, 7], "n": 2, "max_tokens": 3, "return_token_ids": true});
    let answer = post(engine.addr(), "/v1/completions", &body).await.json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
    assert_eq!(answer["choices"][0]["token_ids"], answer["choices"][1]["token_ids"]);
    assert_eq!(answer["choices"][0]["token_ids"].as_array().unwrap().len(), 3);
    assert_eq!(answer["choices"][0]["prompt_token_ids"], json!([5, 6, 7]));
    assert_eq!(answer["usage"]["completion_tokens"], 6);
}

#[tokio::test]
async fn several_prompts_are_answered_each_as_if_alone() {
    let engine = start(Config::default()).await;
    let both = post(engine.addr(), "/v1/completions", &json!({"prompt": ["one", "two"], "max_tokens": 4}))
        .await
        .json();
    for (index, prompt) in ["one", "two"].into_iter().enumerate() {
        let alone = post(engine.addr(), "/v1/completions", &json!({"prompt": prompt, "max_tokens": 4})).await;
        assert_eq!(both["choices"][index]["text"], output(&alone).as_str());
    }
}

#[tokio::test]
async fn an_answer_continues_a_prompt_that_contains_its_beginning() {
    let engine = start(Config::default()).await;
    let ids =
        |prompt: &Value, max: usize| json!({"prompt": prompt, "max_tokens": max, "return_token_ids": true});
    let long = post(engine.addr(), "/v1/completions", &ids(&json!([1, 2, 3]), 6)).await.json();
    let tokens = long["choices"][0]["token_ids"].as_array().unwrap().clone();
    let mut prompt = vec![json!(1), json!(2), json!(3)];
    prompt.extend_from_slice(&tokens[..4]);
    let rest = post(engine.addr(), "/v1/completions", &ids(&Value::Array(prompt), 2)).await.json();
    assert_eq!(rest["choices"][0]["token_ids"].as_array().unwrap()[..], tokens[4..]);
}

#[tokio::test]
async fn requests_are_recorded_as_they_came() {
    let engine = start(Config::default()).await;
    let body = "{ \"prompt\" : \"é\\u00e9\", \"max_tokens\":1 }";
    let mut sent = request(Method::POST, "/v1/completions?a=1;b", body);
    sent.headers_mut().append("x-twice", "one".parse().unwrap());
    sent.headers_mut().append("x-twice", "two".parse().unwrap());
    assert_eq!(send(engine.addr(), sent).await.unwrap().status, StatusCode::OK);
    let seen: Vec<SeenRequest> =
        serde_json::from_slice(&get(engine.addr(), "/emulator/requests?last=1").await.body).unwrap();
    assert_eq!(seen, engine.requests());
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("POST", "/v1/completions?a=1;b"));
    assert_eq!(seen[0].body.as_deref(), Some(body));
    assert_eq!(seen[0].header_values("x-twice"), ["one", "two"]);
}

#[tokio::test]
async fn echo_shows_any_method_and_unknown_paths_are_404_in_vllms_shape() {
    let engine = start(Config { role: Role::Decode, ..Config::default() }).await;
    let echoed = send(engine.addr(), request(Method::PUT, "/emulator/echo?x=%20y", "abc")).await.unwrap();
    assert_eq!(echoed.headers["x-emulator-role"], "decode");
    let echoed = echoed.json();
    assert_eq!((&echoed["method"], &echoed["path"]), (&json!("PUT"), &json!("/emulator/echo?x=%20y")));
    assert_eq!((&echoed["body"], &echoed["body_len"]), (&json!("abc"), &json!(3)));
    let missing = get(engine.addr(), "/v1/nothing").await;
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (StatusCode::NOT_FOUND, &json!(404)));
    let wrong = get(engine.addr(), "/v1/completions").await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn state_over_http_is_the_librarys_state() {
    let engine = start(Config::default()).await;
    let state: State = serde_json::from_slice(&get(engine.addr(), "/emulator/state").await.body).unwrap();
    assert_eq!(state, engine.state());
    assert!(state.idle());
    assert_eq!(state.role, "both");
}

#[tokio::test]
async fn metrics_have_vllms_names() {
    let engine = start(Config::default()).await;
    post(engine.addr(), "/v1/completions", &json!({"prompt": [1, 2, 3], "max_tokens": 4})).await;
    let text = get(engine.addr(), "/metrics").await.text();
    let labels = "{engine=\"0\",model_name=\"tiny\"}";
    for (name, value) in [
        ("num_requests_running", "0.0"),
        ("num_requests_waiting", "0.0"),
        ("kv_cache_usage_perc", "0.0"),
        ("prompt_tokens_total", "3.0"),
        ("generation_tokens_total", "4.0"),
        ("nixl_bytes_transferred_count", "0.0"),
        ("nixl_xfer_time_seconds_sum", "0.0"),
        ("nixl_num_kv_expired_reqs_total", "0.0"),
        ("prefix_cache_queries_total", "3.0"),
        ("external_prefix_cache_hits_total", "0.0"),
    ] {
        assert!(text.contains(&format!("\nvllm:{name}{labels} {value}\n")), "{name}\n{text}");
    }
}

#[tokio::test]
async fn models_and_health_answer() {
    let engine = start(Config { model: "other".into(), ..Config::default() }).await;
    assert_eq!(get(engine.addr(), "/v1/models").await.json()["data"][0]["id"], "other");
    let health = get(engine.addr(), "/health").await;
    assert_eq!((health.status, health.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn an_upgraded_connection_returns_every_byte() {
    let engine = start(Config::default()).await;
    let mut socket = tokio::net::TcpStream::connect(engine.addr()).await.unwrap();
    let head =
        "GET /emulator/upgrade HTTP/1.1\r\nhost: e\r\nconnection: upgrade\r\nupgrade: test\r\n\r\nearly";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"early") {
        assert!(socket.read_buf(&mut seen).await.unwrap() > 0);
    }
    assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&seen));
    socket.write_all(b"late").await.unwrap();
    let mut back = [0; 4];
    socket.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"late");
}

#[tokio::test]
async fn a_connection_serves_request_after_request() {
    let engine = start(Config::default()).await;
    let socket = tokio::net::TcpStream::connect(engine.addr()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(socket);
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Full<Bytes>>(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        sender.ready().await.unwrap();
        let request = Request::get("/health").header("host", "e").body(Full::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused() {
    let engine = start(Config { num_blocks: 4, ..Config::default() }).await;
    let body = json!({"prompt": (0..64).collect::<Vec<u32>>(), "max_tokens": 1});
    let answer = post(engine.addr(), "/v1/completions", &body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("maximum context length is 64"), "{}", answer.text());
}
