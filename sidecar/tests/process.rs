//! The real binary: its exit codes, what it says, and how it stops.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{
    APIS, Ask, Client, LEASE, Opened, PATIENCE, Protocol, Raw, SHORT_GRACE, Scripted, chunk, eventually,
    json_answer, reserve_port, sse_head, within,
};
use kvferry_emulator::{Config, Emulator, Faults, Speeds};
use serde_json::Value;
use tokio::sync::Notify;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvferry-sidecar"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env_remove("ENABLE_PREFILLER_SAMPLING");
    command
}

/// A sidecar process that listens. Dropping it kills it.
struct Process {
    child: Child,
    address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    async fn start(decode: u16, flags: &[&str]) -> Self {
        let (port, _reserved) = reserve_port();
        Self::start_on(port, decode, flags).await
    }

    async fn start_on(port: u16, decode: u16, flags: &[&str]) -> Self {
        let mut child = command()
            .arg(format!("--port={port}"))
            .arg(format!("--model-server-port={decode}"))
            .args(["--secure-proxy=false", "--kv-connector", "nixlv2"])
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

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// The exit code, once it has ended.
    async fn code(&mut self) -> i32 {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code().expect("it was not killed")
    }

    /// Stops it as a kubelet would, with nothing running.
    async fn end(mut self) -> Vec<Value> {
        self.signal("TERM");
        assert_eq!(self.code().await, 0);
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "", "standard error is for what keeps it from starting");
        self.logged("stopped").await;
        self.log()
    }

    /// The line whose message begins like this, once it is there.
    async fn logged(&self, message: &str) -> Value {
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
    async fn requests(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} request lines"), || request_lines(&self.log()).len() >= count).await;
        let lines = request_lines(&self.log());
        assert_eq!(lines.len(), count, "{lines:?}");
        lines
    }

    /// All log lines so far; each must be JSON.
    fn log(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        lines.iter().map(parse).collect()
    }
}

async fn engine() -> Emulator {
    Emulator::start(Config { kv_lease: LEASE, ..Config::default() }).await.unwrap()
}

async fn empty(engines: [&Emulator; 2]) {
    eventually("the engines are empty", || engines.iter().all(|engine| engine.state().idle())).await;
}

/// A process that is expected to end by itself.
fn run(args: &[&str]) -> Output {
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

#[test]
fn a_configuration_that_cannot_work_ends_with_code_2_and_one_line() {
    for (args, says) in [
        (&["--port=x"][..], "--port must be a valid integer, got \"x\""),
        (&["--port=0"], "--port must be between 1 and 65535, got 0"),
        (&["--port=65536"], "--port must be between 1 and 65535"),
        (&["--model-server-port=-1"], "--model-server-port must be between 1 and 65535"),
        (&["--kv-connector=other"], "--kv-connector must be one of: "),
        (&["--max-body-size=0"], "--max-body-size must be at least 1"),
        (&["--workers=0"], "--workers must be at least 1"),
        (&["--body-timeout=0s"], "--body-timeout must be greater than 0"),
        (&["--connect-timeout=0s"], "--connect-timeout must be greater than 0"),
        (&["--secure-proxy=true"], "--secure-proxy=false"),
    ] {
        let all = [&["--secure-proxy=false"], args].concat();
        let all = if args[0].starts_with("--secure") { args } else { &all };
        let output = run(all);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
        assert_eq!(said.matches('\n').count(), 1, "{args:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn flags_that_cannot_be_understood_end_with_code_2_and_name_the_flag() {
    for (args, names) in [
        (&["--no-such-flag"][..], "--no-such-flag"),
        (&["--prefill-timeout=5"], "--prefill-timeout"),
        (&["--request-timeout=soon"], "--request-timeout"),
        (&["--secure-proxy=maybe"], "--secure-proxy"),
        (&["--max-body-size=64MiB"], "--max-body-size"),
        (&["--log-level=loud"], "--log-level"),
        (&["stray"], "stray"),
    ] {
        let output = run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.lines().next().unwrap().contains(names), "{args:?}: {said}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (flag, says) in [("--help", "--shutdown-timeout"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = run(&[flag]);
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains(says));
    }
}

#[test]
fn a_port_in_use_ends_with_code_1_and_one_line() {
    for host in ["127.0.0.1:0", "[::]:0"] {
        // A machine without IPv6 has only one of the two.
        let Ok(other) = TcpListener::bind(host) else { continue };
        let port = other.local_addr().unwrap().port();
        let output = run(&["--secure-proxy=false", &format!("--port={port}")]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("port {port}")), "{said}");
        assert_eq!(said.matches('\n').count(), 1, "{said}");
    }
}

#[tokio::test]
async fn a_stop_lets_a_running_stream_end_and_takes_no_new_client() {
    const FRAMES: usize = 5;
    for name in ["TERM", "INT"] {
        let prefill = Scripted::answering(json_answer(200, r#"{"kv_transfer_params":{"a":1}}"#)).await;
        let go_on = Arc::new(Notify::new());
        let told = Arc::clone(&go_on);
        let decode = Scripted::start(move |mut exchange| {
            let told = Arc::clone(&told);
            async move {
                exchange.write(sse_head()).await;
                for n in 0..FRAMES {
                    exchange.write(chunk(&format!("data: {n}\n\n"))).await;
                    told.notified().await;
                }
                exchange.write(chunk("")).await;
                Some(exchange)
            }
        })
        .await;
        let mut process = Process::start(decode.port(), &[]).await;
        let to = process.address;
        let ask = Ask::post(APIS[0].path, "{}").prefill(&prefill.host_port());
        let mut answer = ask.open(to).await.unwrap();
        assert_eq!(answer.until("\n\n").await, "data: 0\n\n");
        // A connection without a request must not keep the process.
        let mut idle = Raw::connect(to).await;
        idle.write("GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        idle.head().await;

        process.signal(name);
        eventually("new clients are refused", || std::net::TcpStream::connect(to).is_err()).await;
        assert_eq!(idle.rest().await, "");
        for n in 1..FRAMES {
            assert!(process.child.try_wait().unwrap().is_none(), "a stream still runs");
            go_on.notify_one();
            assert_eq!(answer.until("\n\n").await, format!("data: {n}\n\n"));
        }
        go_on.notify_one();
        assert!(answer.data().await.is_none(), "a clean end");
        assert_eq!(process.code().await, 0);
    }
}

#[tokio::test]
async fn a_request_that_arrives_with_the_stop_is_served_or_refused_but_never_lost() {
    // Accepted, but not yet read, when the signal comes.
    let (prefill, decode) = (engine().await, engine().await);
    let mut process = Process::start(decode.addr().port(), &[]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::connect(process.address, Protocol::Http1).await);
    }
    process.signal("TERM");
    for mut client in clients {
        let ask = Ask::post(APIS[0].path, APIS[0].body(true)).prefill(&prefill.host_port());
        if let Ok(response) = client.begin(ask).await {
            let answer = Opened::new(response, Some(client)).whole().await.unwrap().ok();
            assert!(answer.text().ends_with("data: [DONE]\n\n"));
        }
    }
    assert_eq!(process.code().await, 0);
    empty([&prefill, &decode]).await;
}

#[tokio::test]
async fn what_outlives_the_shutdown_timeout_is_cut_and_its_kv_given_back() {
    let (prefill, decode) = (engine().await, engine().await);
    decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let mut process = Process::start(decode.addr().port(), &["--shutdown-timeout=300ms", SHORT_GRACE]).await;
    let endless = APIS[1].value("go on", 1_000_000, true).to_string();
    let ask = |body: String| Ask::post(APIS[1].path, body).prefill(&prefill.host_port());
    let mut stream = ask(endless).open(process.address).await.unwrap();
    stream.until("data: ").await;
    // And one whose KV nobody has read yet.
    decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let waiting = tokio::spawn(ask(APIS[1].body(false)).try_send(process.address));
    eventually("decode hangs", || decode.faults() == Faults::default()).await;
    // And one that prefill never answers.
    prefill.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let computing = tokio::spawn(ask(APIS[1].body(false)).try_send(process.address));
    eventually("prefill hangs", || prefill.faults() == Faults::default()).await;

    process.signal("TERM");
    let (_, complete) = stream.end().await;
    assert!(!complete, "a clean end would look like a whole answer");
    assert!(within("an end", waiting).await.unwrap().is_err());
    assert!(within("an end", computing).await.unwrap().is_err());
    assert_eq!(process.code().await, 0);
    assert_eq!(prefill.state().totals.releases_without_read, 1);
    empty([&prefill, &decode]).await;
    let stopped = process.logged("stopped").await;
    assert_eq!(stopped["fields"]["kv_outstanding"], 0);
    assert_eq!(stopped["fields"]["kv_released"], 1);
}

#[tokio::test]
async fn kv_of_a_client_that_left_is_given_back_before_the_process_ends() {
    let (prefill, decode) = (engine().await, engine().await);
    let mut process = Process::start(decode.addr().port(), &[]).await;
    decode.set_faults(Faults { hang: true, times: Some(1), ..Faults::default() });
    let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.host_port());
    let client = tokio::spawn(ask.try_send(process.address));
    eventually("decode hangs", || decode.faults() == Faults::default()).await;
    client.abort();
    process.signal("TERM");
    assert_eq!(process.code().await, 0);
    assert_eq!(prefill.state().totals.releases_without_read, 1);
    empty([&prefill, &decode]).await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let decode = engine().await;
    let mut process = Process::start(decode.addr().port(), &["--shutdown-timeout=600s"]).await;
    decode.set_faults(Faults { hang: true, ..Faults::default() });
    let client = tokio::spawn(Ask::post(APIS[0].path, "{}").try_send(process.address));
    eventually("decode hangs", || decode.requests().len() == 1).await;
    process.signal("TERM");
    process.logged("shutting down").await;
    process.signal("TERM");
    assert_eq!(process.code().await, 1);
    assert!(within("an end", client).await.unwrap().is_err());
}

#[tokio::test]
async fn a_restarted_sidecar_gets_its_port_back_at_once() {
    let decode = engine().await;
    let mut first = Process::start(decode.addr().port(), &[]).await;
    // Connections of its own closing linger in the kernel.
    for _ in 0..5 {
        let mut client = Raw::connect(first.address).await;
        client.write("GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        client.rest().await;
    }
    first.signal("TERM");
    assert_eq!(first.code().await, 0);
    let second = Process::start_on(first.address.port(), decode.addr().port(), &[]).await;
    Ask::get("/v1/models").send(second.address).await.ok();
    second.end().await;
}

/// The lines about requests among a process's log.
fn request_lines(log: &[Value]) -> Vec<Value> {
    let fields = log.iter().map(|line| line["fields"].clone());
    fields.filter(|fields| fields["message"] == "request").collect()
}

#[tokio::test]
async fn every_intercepted_request_is_one_line_of_json() {
    let (prefill, decode) = (engine().await, engine().await);
    let process = Process::start(decode.addr().port(), &[]).await;
    let to = process.address;
    let target = prefill.host_port();
    let mut expected = 0;
    for route in APIS {
        for stream in [false, true] {
            let ask = Ask::post(route.path, route.body(stream)).header("x-request-id", "mine");
            let answer = ask.prefill(&target).send(to).await.ok();
            expected += 1;
            let log = process.requests(expected).await;
            let line = log.last().unwrap();
            let what = format!("{} stream={stream}: {line}", route.path);
            for (name, value) in [
                ("request_id", "mine"),
                ("api", route.label),
                ("path", route.path),
                ("method", "POST"),
                ("target", &target),
                ("outcome", "ok"),
            ] {
                assert_eq!(line[name], value, "{name} of {what}");
            }
            for (name, value) in
                [("status", 200), ("bytes_in", route.body(stream).len()), ("bytes_out", answer.body.len())]
            {
                assert_eq!(line[name], value, "{name} of {what}");
            }
            assert!(line["cached_tokens"].is_u64(), "{what}");
            let ms = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("no {name}: {what}"));
            let (prefill, decode, total) = (ms("prefill_ms"), ms("decode_ms"), ms("total_ms"));
            assert!(prefill > 0.0 && decode > 0.0 && prefill + decode <= total, "{what}");
            assert!(ms("decode_first_ms") <= decode && prefill <= ms("ttft_ms"), "{what}");
            assert!(ms("ttft_ms") <= total, "{what}");
        }
    }
    // What is not intercepted has no line.
    for path in ["/v1/models", "/health", "/nope"] {
        Ask::get(path).send(to).await;
    }
    assert_eq!(request_lines(&process.end().await).len(), expected);
}

#[tokio::test]
async fn requests_without_a_handoff_and_failures_have_their_line_too() {
    let (prefill, decode) = (engine().await, engine().await);
    let (nobody, _reserved) = reserve_port();
    let process = Process::start(
        decode.addr().port(),
        &["--max-body-size=10000", "--request-timeout=150ms", SHORT_GRACE],
    )
    .await;
    let to = process.address;
    let target = prefill.host_port();
    let body = APIS[0].body(false);
    let ask = || Ask::post(APIS[0].path, body.as_str());
    let mut lines = 0;
    let mut last = async |status: u16, outcome: &str, target: &str| {
        lines += 1;
        let line = process.requests(lines).await.pop().unwrap();
        assert_eq!(
            (line["status"].as_u64(), line["outcome"].as_str()),
            (Some(status.into()), Some(outcome)),
            "{line}"
        );
        assert_eq!(line["target"], target, "{line}");
        line
    };

    ask().send(to).await.ok();
    let line = last(200, "ok", "").await;
    assert!(line.get("prefill_ms").is_none_or(Value::is_null), "no prefill ran: {line}");
    assert!(line["decode_ms"].is_f64() && line["ttft_ms"].is_f64(), "{line}");

    ask().prefill("nonsense").send(to).await;
    let line = last(400, "bad_prefill_target", "nonsense").await;
    assert!(line.get("decode_ms").is_none_or(Value::is_null), "{line}");
    Ask::post(APIS[0].path, "[").prefill(&target).send(to).await;
    last(400, "malformed_body", &target).await;
    Ask::post(APIS[0].path, vec![b'x'; 10_001]).prefill(&target).send(to).await;
    last(413, "body_too_large", &target).await;
    let refusing = format!("127.0.0.1:{nobody}");
    ask().prefill(&refusing).send(to).await;
    last(502, "prefill_unreachable", &refusing).await;

    let once = |faults| Faults { times: Some(1), ..faults };
    let status = || Faults { status: Some(429), ..Faults::default() };
    prefill.set_faults(once(status()));
    ask().prefill(&target).send(to).await;
    let line = last(429, "prefill_refused", &target).await;
    assert!(line["prefill_ms"].is_f64(), "{line}");
    decode.set_faults(once(status()));
    ask().prefill(&target).send(to).await;
    last(429, "decode_refused", &target).await;
    empty([&prefill, &decode]).await;
    prefill.set_faults(once(Faults { hang: true, ..Faults::default() }));
    ask().prefill(&target).send(to).await;
    last(504, "request_timeout", &target).await;

    decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let endless = APIS[0].value("go on", 100_000, true).to_string();
    let mut stream = Ask::post(APIS[0].path, endless.as_str()).open(to).await.unwrap();
    stream.until("data: ").await;
    drop(stream);
    last(200, "client_left", "").await;
    let mut stream = Ask::post(APIS[0].path, endless).prefill(&target).open(to).await.unwrap();
    assert!(!stream.end().await.1);
    let line = last(200, "request_timeout", &target).await;
    assert!(line["bytes_out"].as_u64() > Some(0), "{line}");
    empty([&prefill, &decode]).await;
    assert_eq!(request_lines(&process.end().await).len(), lines);
}

#[tokio::test]
async fn a_request_id_made_here_is_in_the_log_and_on_the_legs() {
    let (prefill, decode) = (engine().await, engine().await);
    let process = Process::start(decode.addr().port(), &[]).await;
    let ask = Ask::post(APIS[0].path, APIS[0].body(false)).prefill(&prefill.host_port());
    ask.send(process.address).await.ok();
    let line = process.requests(1).await.pop().unwrap();
    let seen = prefill.requests().pop().unwrap();
    assert_eq!(line["request_id"], seen.header_values("x-request-id")[0]);
    process.end().await;
}

#[tokio::test]
async fn the_log_says_where_it_listens_and_how_it_ended() {
    let decode = engine().await;
    let process = Process::start(decode.addr().port(), &["--vllm-port=9"]).await;
    let listening = process.logged("listening").await;
    let address = listening["fields"]["addr"].as_str().unwrap();
    assert!(address.ends_with(&format!(":{}", process.address.port())), "{address}");
    let log = process.end().await;
    assert!(log.iter().all(|line| line["timestamp"].is_string() && line["level"].is_string()));
    let warned = |about: &str| {
        let of = |line: &&Value| {
            line["level"] == "WARN" && line["fields"]["message"].as_str().unwrap().contains(about)
        };
        log.iter().filter(of).count()
    };
    assert_eq!(warned("--vllm-port is deprecated"), 1);
}

#[tokio::test]
async fn a_log_that_is_off_says_nothing() {
    let decode = engine().await;
    let mut process = Process::start(decode.addr().port(), &["--log-level=off"]).await;
    Ask::post(APIS[0].path, APIS[0].body(false)).send(process.address).await.ok();
    process.signal("TERM");
    assert_eq!(process.code().await, 0);
    assert!(process.log().is_empty());
}
