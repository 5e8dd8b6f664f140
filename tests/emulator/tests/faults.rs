//! Each fault does what it says, and only as often as it was asked to.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is how they report")]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::{PATIENCE, eventually, get, output, post, prefill_leg, request, send, start};
use http::{Method, StatusCode};
use kvferry_emulator::{Config, Emulator, Faults};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

fn body() -> Value {
    json!({"prompt": "hello there", "max_tokens": 8})
}

async fn faulty(set: Value) -> Emulator {
    let engine = start(Config::default()).await;
    let answer = post(engine.addr(), "/emulator/faults", &set).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    engine
}

/// Sends a request over a bare socket and reads until the end: the bytes, and the error that ended them.
async fn raw(addr: SocketAddr, head_extra: &str) -> (Vec<u8>, Option<ErrorKind>) {
    let body = body().to_string();
    let length = body.len();
    let request = format!(
        "POST {PATH} HTTP/1.1\r\nhost: e\r\nconnection: close\r\n{head_extra}content-length: {length}\r\n\r\n{body}"
    );
    let work = move || {
        let mut socket = TcpStream::connect(addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let error = socket.read_to_end(&mut bytes).err().map(|error| error.kind());
        (bytes, error)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test]
async fn status_with_times_acts_that_often_and_then_stops() {
    let engine =
        faulty(json!({"status": 503, "times": 2, "body": "busy", "headers": {"retry-after": "1"}})).await;
    for _ in 0..2 {
        let answer = post(engine.addr(), PATH, &body()).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "busy"));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert_eq!(post(engine.addr(), PATH, &body()).await.status, StatusCode::OK);
    assert_eq!(engine.faults(), Faults::default());
}

#[tokio::test]
async fn a_status_without_a_body_has_vllms_error_shape() {
    let engine = faulty(json!({"status": 429})).await;
    let answer = post(engine.addr(), PATH, &body()).await;
    assert_eq!(answer.json()["error"]["code"], 429);
}

#[tokio::test]
async fn hang_never_answers_until_the_client_leaves() {
    let engine = faulty(json!({"hang": true})).await;
    let wait = Duration::from_millis(200);
    let answer =
        tokio::time::timeout(wait, send(engine.addr(), request(Method::POST, PATH, body().to_string())))
            .await;
    assert!(answer.is_err());
    assert_eq!(engine.requests().len(), 1);
}

#[tokio::test]
async fn reset_before_sends_nothing_but_a_reset() {
    let engine = faulty(json!({"reset_before": true})).await;
    assert_eq!(raw(engine.addr(), "").await, (Vec::new(), Some(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn reset_after_bytes_cuts_inside_the_body() {
    let engine = faulty(json!({"reset_after_bytes": 10})).await;
    let (bytes, error) = raw(engine.addr(), "").await;
    assert_eq!(error, Some(ErrorKind::ConnectionReset));
    let text = String::from_utf8(bytes).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("content-length: "), "{head}");
    assert_eq!(rest.len(), 10);
}

#[tokio::test]
async fn garbage_is_not_http() {
    let engine = faulty(json!({"garbage": true})).await;
    let (bytes, _) = raw(engine.addr(), "").await;
    assert!(!bytes.is_empty() && !bytes.starts_with(b"HTTP"), "{bytes:?}");
    assert!(send(engine.addr(), request(Method::POST, PATH, body().to_string())).await.is_err());
}

#[tokio::test]
async fn not_json_is_a_200_with_text() {
    let engine = faulty(json!({"not_json": true})).await;
    let answer = post(engine.addr(), PATH, &body()).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
}

#[tokio::test]
async fn gzip_compresses_and_the_content_is_the_same() {
    let engine = faulty(json!({"gzip": true, "times": 1})).await;
    let packed = post(engine.addr(), PATH, &body()).await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut text).unwrap();
    let unpacked: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(unpacked["choices"], post(engine.addr(), PATH, &body()).await.json()["choices"]);
}

#[tokio::test]
async fn drip_is_slow_and_complete() {
    let engine = faulty(json!({"drip_ms": 2, "times": 1, "not_json": true})).await;
    let begun = Instant::now();
    assert_eq!(post(engine.addr(), PATH, &body()).await.text(), "this is not JSON");
    assert!(begun.elapsed() >= Duration::from_millis(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn early_hints_come_before_the_answer() {
    let engine = faulty(json!({"early_hints": true})).await;
    let text = String::from_utf8(raw(engine.addr(), "").await.0).unwrap();
    assert!(text.starts_with("HTTP/1.1 103 Early Hints\r\nlink: "), "{text}");
    assert!(text.contains("\r\n\r\nHTTP/1.1 200 OK\r\n"), "{text}");
}

#[tokio::test]
async fn a_trailer_follows_the_body_whether_or_not_it_was_invited() {
    let engine = faulty(json!({"trailers": true})).await;
    for invitation in ["te: trailers\r\n", ""] {
        let text = String::from_utf8(raw(engine.addr(), invitation).await.0).unwrap();
        assert!(text.contains("transfer-encoding: chunked"), "{text}");
        assert!(text.ends_with("\r\n0\r\nx-emulator-trailer: done\r\n\r\n"), "{invitation:?}: {text}");
    }
}

#[tokio::test]
async fn drop_kv_params_leaves_them_out_of_the_next_prefill_only() {
    let engine = faulty(json!({"drop_kv_params": true, "times": 1})).await;
    assert_eq!(post(engine.addr(), PATH, &body()).await.status, StatusCode::OK);
    let dropped = post(engine.addr(), PATH, &prefill_leg(PATH, &body())).await.json();
    assert!(dropped["kv_transfer_params"].is_null());
    assert_eq!(engine.state().leases.len(), 1);
    let next = post(engine.addr(), PATH, &prefill_leg(PATH, &body())).await.json();
    assert!(next["kv_transfer_params"].is_object());
}

#[tokio::test]
async fn crash_ends_the_server_and_another_can_take_its_place() {
    let engine = faulty(json!({"crash": true})).await;
    let addr = engine.addr();
    assert!(send(addr, request(Method::POST, PATH, body().to_string())).await.is_err());
    eventually("the thread ends", || !engine.is_running()).await;
    assert!(TcpStream::connect(addr).is_err());
    let again = start(Config { port: addr.port(), kv_port: engine.kv_port(), ..Config::default() }).await;
    assert_eq!(post(again.addr(), PATH, &body()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_delay_comes_on_top_of_a_right_answer() {
    let engine = faulty(json!({"delay_ms": 100, "times": 1})).await;
    let begun = Instant::now();
    let late = output(&post(engine.addr(), PATH, &body()).await);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(late, output(&post(engine.addr(), PATH, &body()).await));
}

#[tokio::test]
async fn an_unknown_fault_is_refused_and_probes_are_spared() {
    let engine = faulty(json!({"status": 500})).await;
    assert_eq!(
        post(engine.addr(), "/emulator/faults", &json!({"stauts": 500})).await.status,
        StatusCode::BAD_REQUEST
    );
    for path in ["/health", "/metrics", "/v1/models"] {
        assert_eq!(get(engine.addr(), path).await.status, StatusCode::OK);
    }
    assert_eq!(get(engine.addr(), "/emulator/echo").await.status, StatusCode::INTERNAL_SERVER_ERROR);
}
