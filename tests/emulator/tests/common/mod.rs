//! A client for one request per connection, and the bodies of every route.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is how they report")]
#![expect(dead_code, reason = "each test file uses its part of this")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kvferry_emulator::{Config, Emulator};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Longest a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Tokens each test request asks for.
pub(crate) const TOKENS: usize = 12;

pub(crate) async fn start(config: Config) -> Emulator {
    Emulator::start(config).await.unwrap()
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) async fn send(
    addr: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(addr).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    connection.abort();
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "emulator")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

pub(crate) async fn post(addr: SocketAddr, path: &str, body: &Value) -> Answer {
    send(addr, request(Method::POST, path, body.to_string())).await.unwrap()
}

pub(crate) async fn get(addr: SocketAddr, path: &str) -> Answer {
    send(addr, request(Method::GET, path, "")).await.unwrap()
}

/// Waits until `done` holds, or fails with what it was waiting for.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every generation route with a request body of its own.
pub(crate) fn routes() -> Vec<(&'static str, Value)> {
    let text = "the quick brown fox jumps over the lazy dog and does it again the day after";
    vec![
        (
            "/v1/chat/completions",
            json!({"model": "tiny", "messages": [{"role": "user", "content": text}],
            "max_tokens": TOKENS}),
        ),
        ("/v1/completions", json!({"model": "tiny", "prompt": text, "max_tokens": TOKENS})),
        (
            "/v1/messages",
            json!({"model": "tiny", "system": "be brief", "max_tokens": TOKENS,
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
        ),
        ("/v1/responses", json!({"model": "tiny", "input": text, "max_output_tokens": TOKENS})),
        (
            "/inference/v1/generate",
            json!({"token_ids": (100..140).collect::<Vec<u32>>(),
            "sampling_params": {"max_tokens": TOKENS}}),
        ),
    ]
}

/// The prefill leg of a request, as a sidecar would send it.
pub(crate) fn prefill_leg(path: &str, body: &Value) -> Value {
    let mut leg = body.clone();
    leg["stream"] = false.into();
    leg["kv_transfer_params"] = json!({"do_remote_decode": true, "do_remote_prefill": false,
        "remote_engine_id": null, "remote_block_ids": null, "remote_host": null, "remote_port": null});
    match path {
        "/v1/responses" => leg["max_output_tokens"] = 1.into(),
        "/inference/v1/generate" => leg["sampling_params"]["max_tokens"] = 1.into(),
        _ => leg["max_tokens"] = 1.into(),
    }
    leg
}

/// The decode leg for what the prefill answered.
pub(crate) fn decode_leg(body: &Value, prefill: &Value, stream: bool) -> Value {
    let mut leg = body.clone();
    leg["stream"] = stream.into();
    leg["kv_transfer_params"] = prefill["kv_transfer_params"].clone();
    leg
}

/// The generated text (or ids), whatever the route and whether streamed or not.
pub(crate) fn output(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let streamed = answer.headers["content-type"].to_str().unwrap().contains("text/event-stream");
    if !streamed {
        return piece(&answer.json());
    }
    let text = answer.text();
    let payloads =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let events: Vec<Value> = payloads.map(|data| serde_json::from_str(data).unwrap()).collect();
    if let Some(last) = events.last().filter(|event| event.get("output_ids").is_some()) {
        // Each frame of this route repeats what came before.
        return piece(last);
    }
    events
        .into_iter()
        .filter(|event| event.get("type").is_none_or(|kind| kind.as_str().unwrap().contains("delta")))
        .map(|event| piece(&event))
        .collect()
}

fn piece(value: &Value) -> String {
    if let Some(ids) = value.pointer("/output_ids").and_then(Value::as_array) {
        return ids.iter().flat_map(|id| [id.to_string(), " ".into()]).collect();
    }
    let places = [
        "/choices/0/message/content",
        "/choices/0/delta/content",
        "/choices/0/text",
        "/content/0/text",
        "/output/0/content/0/text",
        "/delta/text",
        "/delta",
    ];
    if let Some(text) = places.iter().find_map(|place| value.pointer(place)?.as_str()) {
        return text.to_owned();
    }
    let ids = value.pointer("/choices/0/token_ids").and_then(Value::as_array);
    ids.into_iter().flatten().flat_map(|id| [id.to_string(), " ".into()]).collect()
}

/// A request in flight.
pub(crate) struct Leg(JoinHandle<Answer>);

impl Leg {
    pub(crate) fn send(addr: SocketAddr, path: &str, body: &Value) -> Self {
        let request = request(Method::POST, path, body.to_string());
        Self(tokio::spawn(async move { send(addr, request).await.unwrap() }))
    }

    pub(crate) fn answered(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) async fn answer(self) -> Answer {
        tokio::time::timeout(PATIENCE, self.0).await.expect("an answer in time").unwrap()
    }

    /// Drops its connection.
    pub(crate) fn leave(self) {
        self.0.abort();
    }
}

/// Patience of engines whose other leg is not to come.
pub(crate) const SOON: Duration = Duration::from_millis(200);

/// A completion request of a few blocks.
pub(crate) fn prompt() -> Value {
    json!({"model": "tiny", "prompt": "the quick brown fox jumps over the lazy dog", "max_tokens": TOKENS})
}

/// `body` with these params.
pub(crate) fn with_params(body: &Value, params: &Value) -> Value {
    let mut leg = body.clone();
    leg["kv_transfer_params"] = params.clone();
    leg
}

/// Asserts that a leg ended in an engine's error that says `words`.
pub(crate) fn refused(answer: &Answer, words: &str) {
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", answer.text());
    assert!(answer.text().contains(words), "{}", answer.text());
}

/// What one engine answers alone.
pub(crate) async fn alone(path: &str, body: &Value) -> String {
    let engine = start(Config::default()).await;
    output(&post(engine.addr(), path, body).await)
}
