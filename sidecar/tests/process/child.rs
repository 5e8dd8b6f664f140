//! A sidecar as a process of its own, watched from outside.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{LEASE, PATIENCE, eventually, reserve_port};
use kvferry_emulator::{Config, Emulator};
use serde_json::Value;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvferry-sidecar"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("ENABLE_PREFILLER_SAMPLING");
    command
}

/// A sidecar process that listens. Dropping it kills it.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub(crate) async fn start(decode: u16, flags: &[&str]) -> Self {
        let (port, _reserved) = reserve_port();
        Self::start_on(port, decode, flags).await
    }

    pub(crate) async fn start_on(port: u16, decode: u16, flags: &[&str]) -> Self {
        let decoder = format!("--model-server-port={decode}");
        let usual = [decoder.as_str(), "--secure-proxy=false", "--kv-connector", "nixlv2"];
        Self::start_as(port, &[], &[&usual, flags].concat()).await
    }

    /// With these variables and flags, besides the port.
    pub(crate) async fn start_as(port: u16, variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let mut child = command()
            .envs(variables.iter().copied())
            .arg(format!("--port={port}"))
            .args(flags)
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, to) = (child.stdout.take().unwrap(), Arc::clone(&lines));
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                to.lock().unwrap().push(line.unwrap());
            }
        });
        let mut process = Self { child, address: ([127, 0, 0, 1], port).into(), lines };
        // Not by the log: it may be off.
        eventually("the sidecar listens", || std::net::TcpStream::connect(process.address).is_ok()).await;
        assert!(process.child.try_wait().unwrap().is_none());
        process
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// The exit code, once it has ended.
    pub(crate) async fn code(&mut self) -> i32 {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code().expect("it was not killed")
    }

    /// Stops it as a kubelet would, with nothing running.
    pub(crate) async fn end(mut self) -> Vec<Value> {
        self.signal("TERM");
        assert_eq!(self.code().await, 0);
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "standard error is for what keeps it from starting");
        self.logged("stopped").await;
        self.log()
    }

    /// The line whose message begins like this, once it is there.
    pub(crate) async fn logged(&self, message: &str) -> Value {
        let mut found = None;
        eventually(&format!("the log says {message:?}"), || {
            let says =
                |line: &Value| line["fields"]["message"].as_str().is_some_and(|m| m.starts_with(message));
            found = self.log().into_iter().find(says);
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// The lines about requests, once there are so many.
    pub(crate) async fn requests(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} request lines"), || request_lines(&self.log()).len() >= count).await;
        let lines = request_lines(&self.log());
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// All log lines so far; each must be JSON.
    pub(crate) fn log(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        lines.iter().map(parse).collect()
    }
}

pub(crate) async fn engine() -> Emulator {
    Emulator::start(Config { kv_lease: LEASE, ..Config::default() }).await.unwrap()
}

pub(crate) async fn empty(engines: [&Emulator; 2]) {
    eventually("the engines are empty", || engines.iter().all(|engine| engine.state().idle())).await;
}

/// A process that is expected to end by itself.
pub(crate) fn run(args: &[&str]) -> Output {
    let mut child = command().args(args).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("still running: {args:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// The lines about requests among a process's log.
pub(crate) fn request_lines(log: &[Value]) -> Vec<Value> {
    let fields = log.iter().map(|line| line["fields"].clone());
    fields.filter(|fields| fields["message"] == "request").collect()
}
