//! The zero-think engine answers what its name promises, through the library and as a process.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is how they report")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use common::{get, post, request, send};
use http::{Method, StatusCode};
use kvferry_emulator::{Role, Zero, ZeroConfig};
use serde_json::{Value, json};

fn start() -> Zero {
    let config =
        ZeroConfig { host: "127.0.0.1".into(), port: 0, workers: 2, model: "tiny".into(), role: Role::Both };
    Zero::start(&config).unwrap()
}

#[tokio::test]
async fn a_prefill_leg_gets_params_and_a_decode_leg_gets_none() {
    let zero = start();
    let prefill = json!({"messages": [], "kv_transfer_params": {"do_remote_decode": true}});
    let answer = post(zero.addr(), "/v1/chat/completions", &prefill).await.json();
    assert_eq!(answer["kv_transfer_params"]["do_remote_prefill"], true);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 64);
    let decode = json!({"stream": false, "kv_transfer_params": answer["kv_transfer_params"]});
    let answer = post(zero.addr(), "/v1/chat/completions", &decode).await.json();
    assert!(answer["kv_transfer_params"].is_null());
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_stream_has_as_many_frames_as_asked_at_the_pace_asked() {
    let zero = start();
    let mut asked = request(Method::POST, "/v1/chat/completions", r#"{"stream": true}"#);
    asked.headers_mut().insert("x-emulator-frames", "5".parse().unwrap());
    asked.headers_mut().insert("x-emulator-itl-us", "20000".parse().unwrap());
    let begun = std::time::Instant::now();
    let text = send(zero.addr(), asked).await.unwrap().text();
    assert!(begun.elapsed().as_millis() >= 80, "{:?}", begun.elapsed());
    assert_eq!(text.matches("data: {").count(), 5);
    assert!(text.ends_with("data: [DONE]\n\n"));
    let default =
        send(zero.addr(), request(Method::POST, "/v1/completions", r#"{"stream":true}"#)).await.unwrap();
    assert_eq!(default.text().matches("data: {").count(), 16);
}

#[tokio::test]
async fn probes_answer() {
    let zero = start();
    for path in ["/health", "/v1/models", "/metrics", "/get_server_info"] {
        assert_eq!(get(zero.addr(), path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(get(zero.addr(), "/other").await.status, StatusCode::NOT_FOUND);
}

/// The binary, killed when the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn launch(flags: &[&str]) -> (Process, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvferry-emulator"))
        .args(["--port", "0"])
        .args(flags)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Process(child), serde_json::from_str(&line).unwrap())
}

fn address(ready: &Value) -> std::net::SocketAddr {
    ready["ready"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_binary_announces_itself_serves_and_ends_with_zero_on_sigterm() {
    for flags in [&["--zero", "--workers", "2"][..], &["--role", "prefill", "--itl", "1ms"]] {
        let (mut process, ready) = launch(flags);
        assert_eq!(get(address(&ready), "/health").await.status, StatusCode::OK);
        assert!(ready["engine_id"].is_string());
        let pid = process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(process.0.wait().unwrap().code(), Some(0), "{flags:?}");
    }
}

#[tokio::test]
async fn the_crash_fault_ends_the_process_with_one() {
    let (mut process, ready) = launch(&["--role", "prefill"]);
    post(address(&ready), "/emulator/faults", &json!({"crash": true})).await;
    assert!(send(address(&ready), request(Method::POST, "/v1/completions", "{}")).await.is_err());
    assert_eq!(process.0.wait().unwrap().code(), Some(1));
}
