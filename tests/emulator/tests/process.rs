//! The handoff flags of the binary, and two processes that share a folder.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use common::{get, output, post};
use serde_json::{Value, json};

/// The binary, killed when the test ends.
struct Process {
    child: Child,
    ready: Value,
}

impl Process {
    fn start(flags: &[&str]) -> Self {
        let mut child = command(flags).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, ready: serde_json::from_str(&line).unwrap() }
    }

    fn addr(&self) -> SocketAddr {
        self.ready["ready"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap()
    }

    fn port(&self, name: &str) -> SocketAddr {
        let port = u16::try_from(self.ready[name].as_u64().unwrap()).unwrap();
        (self.addr().ip(), port).into()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvferry-emulator"));
    command.args(["--port", "0"]).args(flags);
    command
}

#[tokio::test]
async fn the_ready_line_names_every_port_and_the_flags_reach_the_engine() {
    let engine = Process::start(&["--connector", "mooncake", "--dp-size", "2", "--abort-timeout", "1m"]);
    let list = get(engine.port("bootstrap_port"), "/query").await.json();
    assert_eq!((list.as_object().unwrap().len(), &list["0"]["engine_id"]), (2, &engine.ready["engine_id"]));
    for port in ["kv_port", "p2p_port", "notify_port"] {
        tokio::net::TcpStream::connect(engine.port(port)).await.unwrap();
    }
    let leg = json!({"prompt": "hello", "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": true}});
    let refused = post(engine.addr(), "/v1/completions", &leg).await;
    assert!(refused.text().contains("speaks mooncake"), "{}", refused.text());
}

#[tokio::test]
async fn processes_share_the_folder_of_a_store() {
    let folder = std::env::temp_dir().join(format!("kvferry-processes-{}", std::process::id()));
    let store = ["--shared-store", folder.to_str().unwrap()];
    let prefill = Process::start(&[&["--role", "prefill"], &store[..]].concat());
    let decode = Process::start(&[&["--role", "decode"], &store[..]].concat());
    let body = json!({"prompt": (0..100).collect::<Vec<u32>>(), "max_tokens": 4});
    let expected = output(&post(prefill.addr(), "/v1/completions", &body).await);
    assert_eq!(output(&post(decode.addr(), "/v1/completions", &body).await), expected);
    let state = get(decode.addr(), "/emulator/state").await.json();
    assert_eq!(
        (&state["totals"]["store_loaded"], &state["totals"]["computed_prompts"]),
        (&json!(6), &json!(0))
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_unknown_protocol_is_refused_with_the_known_ones() {
    let refused = command(&["--connector", "nixlv2"]).output().unwrap();
    assert!(!refused.status.success());
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(error.contains("known are nixl, nixl-push, moriio"), "{error}");
}
