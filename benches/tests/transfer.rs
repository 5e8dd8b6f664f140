//! `kvferry-bench transfer` and `preflight` as a user runs them: real processes on loopback, tiny sizes, every byte looked
//! at. No figure is asserted; that there are some, and that wrong bytes and strangers are found, is.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// How long a server may take to answer or to hang up: its own limit for strangers is five seconds.
const PATIENCE: Duration = Duration::from_secs(60);

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kvferry-bench"))
}

/// A folder of one test, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("kvferry-bench-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(self.0.join(file)).unwrap()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A process that serves, until dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = bench()
            .args(["transfer", "--serve", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving on ").unwrap().to_owned();
        Self { child, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn run(arguments: &str, out: &Path) -> Output {
    bench().args(arguments.split_whitespace()).arg("--out").arg(out).output().unwrap()
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

const TINY: &str =
    "--block-bytes 4KiB,64KiB --count 16 --op both --rounds 2 --window-ms 5 --verify --backend shm,tcp";

#[test]
fn a_local_run_moves_verifies_and_writes_down_every_cell_of_every_side() {
    let folder = Folder::new("local");
    let output = run(&format!("transfer --local {TINY}"), &folder.0);
    assert!(output.status.success(), "{}", said(&output));
    let results = folder.json("transfer.json");
    let cells = results["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4 * 4, "two sizes, two ways; two fabrics and their two ceilings");
    assert!(cells.iter().all(|cell| cell["gb_per_s"].as_f64().unwrap() > 0.0));
    // Two sizes, two ways, before and after the rounds, two fabrics.
    assert_eq!(results["verified_bytes"], 2 * 2 * 2 * 16 * (4096 + 65_536));
    assert!(results["cold"]["tcp"]["handshake_ms"].as_f64().unwrap() > 0.0);
    assert!(results["cold"]["shm"]["lane"].as_str().unwrap().contains("shm"));
    assert_eq!(results["ratios"], json!({}), "goals belong to the scorecard");
    assert!(results["besides"]["tcp_read-16x4KiB_vs_sockets"].is_number());
    let csv = fs::read_to_string(folder.0.join("transfer.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 16);
    for file in ["transfer.svg", "transfer.html"] {
        assert!(fs::read_to_string(folder.0.join(file)).unwrap().contains("sockets"), "{file}");
    }
}

#[test]
fn one_wrong_byte_fails_the_run_whichever_way_it_went() {
    let folder = Folder::new("flip");
    for op in ["read", "write"] {
        let output =
            run(&format!("transfer --local {TINY} --op {op} --flip").replace("--op both ", ""), &folder.0);
        assert!(!output.status.success());
        let said = said(&output);
        assert!(
            said.contains("shm: WRONG BYTE at offset 0") && said.contains("tcp: WRONG BYTE"),
            "{op}: {said}"
        );
        assert_eq!(folder.json("transfer.json")["failures"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_models_sequence_moves_between_engines_that_differ() {
    let folder = Folder::new("model");
    let model =
        "--model llama-3.1-8b --tokens 40 --block-size 16:32 --layout nhd --tp 2/1:4/2 --order shuffled";
    let output =
        run(&format!("transfer --local --backend tcp --rounds 1 --window-ms 1 --verify {model}"), &folder.0);
    assert!(output.status.success(), "{}", said(&output));
    // A quarter of the heads of 40 tokens, twice.
    assert_eq!(folder.json("transfer.json")["verified_bytes"], 2 * 40 * 131_072 / 4);
}

#[test]
fn one_to_many_and_many_to_one_verify_every_share() {
    let folder = Folder::new("fan");
    for fan in ["--peers 3", "--drivers 3"] {
        let work = "--block-bytes 4KiB --count 16 --op both --rounds 1 --window-ms 5 --verify --backend tcp";
        let output = run(&format!("transfer --local {work} {fan}"), &folder.0);
        assert!(output.status.success(), "{fan}: {}", said(&output));
        assert_eq!(folder.json("transfer.json")["verified_bytes"], 2 * 2 * 3 * 16 * 4096, "{fan}");
    }
}

#[test]
fn two_hosts_with_one_secret_run_and_a_stranger_does_not() {
    let folder = Folder::new("secret");
    let file = |name: &str, words: &str| {
        let path = folder.0.join(name);
        fs::write(&path, words).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong) = (file("right", "0123456789abcdefgh"), file("wrong", "0123456789abcdefgX"));
    let server = Server::start(&["--secret-file", &right]);
    let connect = |secret: &str| {
        let arguments = format!("transfer --connect {} {TINY} {secret}", server.address);
        run(&arguments.replace("shm,tcp", "tcp"), &folder.0)
    };
    let output = connect(&format!("--secret-file {right}"));
    assert!(output.status.success(), "{}", said(&output));
    assert!(folder.json("transfer.json")["verified_bytes"].as_u64().unwrap() > 0);
    for stranger in [format!("--secret-file {wrong}"), String::new()] {
        let output = connect(&stranger);
        assert!(
            !output.status.success() && said(&output).contains("same --secret-file"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn a_server_lends_no_more_memory_than_it_was_told_to() {
    let folder = Folder::new("bounds");
    let server = Server::start(&["--max-bytes", "64KiB"]);
    let output =
        run(&format!("transfer --connect {} {TINY}", server.address).replace("shm,tcp", "tcp"), &folder.0);
    assert!(!output.status.success() && said(&output).contains("--max-bytes 65536"), "{}", said(&output));
}

#[test]
fn one_session_runs_at_a_time_and_the_next_one_when_it_has_ended() {
    let server = Server::start(&[]);
    let first = session(&server);
    let busy = session(&server);
    assert!(busy.reply["error"].as_str().unwrap().contains("another session"), "{}", busy.reply);
    assert_eq!(first.reply, json!({"ok": null}));
    drop(first);
    // The server sees the end of a connection by itself; nobody has said goodbye.
    let mut tries = (0..100).map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        session(&server).reply.clone()
    });
    assert!(tries.any(|reply| reply == json!({"ok": null})));
}

/// A session as far as the server's first reply, spoken by hand.
struct Spoken {
    reply: Value,
    stream: TcpStream,
}

impl Drop for Spoken {
    fn drop(&mut self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

fn session(server: &Server) -> Spoken {
    let mut stream = server.connect();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut hear = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(hear()["kvferry_bench"], 1);
    let greeting = json!({"kvferry_bench": 1, "nonce": vec![7; 16]});
    stream.write_all(format!("{greeting}\n\"none\"\n").as_bytes()).unwrap();
    assert_eq!(hear(), json!("none"));
    let reply = hear();
    Spoken { reply, stream }
}

/// What the server says after its greeting to somebody who sends these bytes, until it hangs up.
fn answer_to(server: &Server, bytes: &[u8]) -> String {
    let mut stream = server.connect();
    // It may hang up before all of it is sent.
    drop(stream.write_all(bytes));
    drop(stream.shutdown(Shutdown::Write));
    let mut heard = Vec::new();
    // A reset is a way to hang up.
    drop(stream.read_to_end(&mut heard));
    String::from_utf8_lossy(&heard).lines().skip(1).collect::<Vec<_>>().join("\n")
}

#[test]
fn strangers_who_talk_nonsense_are_hung_up_on_and_the_server_serves_on() {
    let server = Server::start(&[]);
    let other = json!({"kvferry_bench": 99, "nonce": vec![0; 16]});
    let refused = answer_to(&server, format!("{other}\n").as_bytes());
    assert!(refused.contains("version 99") && refused.contains("same release"), "{refused}");
    for nonsense in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"",
        b"{}\n",
        b"\xff\xfe\n",
        b"[[[[[[[[[[[[[[[[",
        &vec![b'a'; 100_000],
    ] {
        assert_eq!(answer_to(&server, nonsense), "", "{:?}", &nonsense[..nonsense.len().min(20)]);
    }
    assert_eq!(session(&server).reply, json!({"ok": null}));
}

#[test]
fn a_session_that_asks_for_what_it_may_not_is_refused_and_goes_on() {
    let server = Server::start(&[]);
    let mut spoken = session(&server);
    let mut lines = BufReader::new(spoken.stream.try_clone().unwrap()).lines();
    let mut ask = |wish: Value| -> Value {
        spoken.stream.write_all(format!("{wish}\n").as_bytes()).unwrap();
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
    };
    assert_eq!(ask(json!({"session": "start"})), json!({"ok": 0}));
    let to_worker = |ask: Value| json!({"session": "ask", "worker": 0, "within_s": 10, "ask": ask});
    let error = |answer: Value| answer["error"].as_str().unwrap().to_owned();
    assert!(error(ask(to_worker(json!({"do": "run", "window_ms": 1})))).contains("do not drive"));
    assert!(error(ask(to_worker(json!({"do": "fill", "seed": 1})))).contains("nothing is open"));
    assert!(
        error(ask(json!({"session": "ask", "worker": 9, "within_s": 1, "ask": {"do": "cpu"}})))
            .contains("no such worker")
    );
    let setup = json!({"do": "open", "backend": "floppy", "transports": null, "threads": 1, "streams": 1,
        "busy": false, "bytes": 4096, "host": null, "secret": null});
    assert!(error(ask(to_worker(setup))).contains("known: shm"));
    assert_eq!(ask(json!({"session": "bye"})), json!({"ok": null}));
}

#[test]
fn preflight_measures_every_pair_and_fails_when_a_host_is_gone() {
    let folder = Folder::new("preflight");
    let servers: Vec<Server> = (0..3).map(|_| Server::start(&[])).collect();
    let peers = servers.iter().map(|server| server.address.clone()).collect::<Vec<_>>().join(",");
    // The threshold is none: how fast loopback is beside other tests is not what this is about.
    let tiny = "--block-bytes 16KiB --count 8 --window-ms 5 --threshold 0";
    let output = run(&format!("preflight --peers {peers} {tiny}"), &folder.0);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("all 6 pairs are as they should be"), "{}", said(&output));
    let results = folder.json("preflight.json");
    let pairs = results["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 6);
    assert!(pairs.iter().all(|pair| pair["found"]["gb_per_s"].as_f64().unwrap() > 0.0));
    assert!(pairs.iter().all(|pair| pair["found"]["lane"].as_str().unwrap().contains("tcp")));
    assert_eq!(fs::read_to_string(folder.0.join("preflight.svg")).unwrap().matches("GB/s").count(), 1);

    let lane = run(&format!("preflight --peers {peers} {tiny} --expect-lane rc"), &folder.0);
    assert!(!lane.status.success() && said(&lane).contains("not rc"), "{}", said(&lane));

    let gone = servers[2].address.clone();
    let left: Vec<Server> = servers.into_iter().take(2).collect();
    let output = run(&format!("preflight --peers {peers} {tiny}"), &folder.0);
    assert!(!output.status.success() && said(&output).contains("4 of 6 pairs"), "{}", said(&output));
    let verdicts = folder.json("preflight.json")["verdicts"].clone();
    let verdicts = verdicts.as_array().unwrap();
    assert!(verdicts.iter().all(|verdict| verdict["what"] == "failed"
        && (verdict["from"] == gone.as_str() || verdict["to"] == gone.as_str())));
    assert_eq!(left.len(), 2);
}
