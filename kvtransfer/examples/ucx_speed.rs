//! How fast the UCX fabric moves bytes between two processes of this machine, beside UCX's own `ucx_perftest` if there is
//! one, in the same run. Arguments: `transports=tcp library=FILE rounds=20 busy=1 perftest=FILE`.
//!
//! `ucx_perftest` moves one buffer over and over, which stays in the caches; this walks through 256 MiB. So where the
//! processor copies (`cma`), figures of small sizes are not of the same work.

#![expect(clippy::unwrap_used, reason = "an example may stop at what cannot be")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::Arena;
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const REGION: u64 = 256 << 20;
const READ: Token = Token([1; 16]);
const WRITE: Token = Token([2; 16]);
const REGION_0: RegionId = RegionId(0);

type Arguments = HashMap<String, String>;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Arguments = words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    let serve = words.iter().any(|word| word == "serve");
    let name = AgentName::new(if serve { "owner" } else { "initiator" }).unwrap();
    let fabric = UcxFabric::open(UcxOptions {
        library: arguments.get("library").map(PathBuf::from),
        transports: arguments.get("transports").cloned(),
        busy_poll: arguments.contains_key("busy"),
        ..UcxOptions::new(name, Epoch(1))
    })
    .unwrap();
    let region =
        Arena::create("speed", NonZeroUsize::new(usize::try_from(REGION).unwrap()).unwrap()).unwrap();
    for at in (0..REGION).step_by(4096) {
        assert!(region.write_at(at, &at.to_le_bytes()));
    }
    fabric.register(region).unwrap();
    if serve { own(&fabric) } else { initiate(&fabric, &arguments, &words) }
}

fn own(fabric: &UcxFabric) {
    for (token, access) in [(READ, Access::Read), (WRITE, Access::Write)] {
        let spans = vec![Span::new(REGION_0, 0, REGION)];
        let deadline = Instant::now() + Duration::from_secs(3600);
        fabric.grant(Lease { token, access, spans, deadline }).unwrap();
    }
    let metadata = fabric.metadata().unwrap();
    let digits = metadata.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"));
    println!("metadata {digits}");
    // Until the other process ends.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn initiate(fabric: &UcxFabric, arguments: &Arguments, words: &[String]) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(words)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // UCX may have something to say before.
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let metadata = lines.find_map(|line| Some(line.strip_prefix("metadata ")?.to_owned())).unwrap();
    let metadata: Vec<u8> = (0..metadata.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&metadata[at..at + 2], 16).unwrap())
        .collect();
    let peer = fabric.connect(&metadata).unwrap();
    wait_for(fabric, |event| matches!(event, Event::Connected(..)));
    println!("UCX {} ({}): {}", fabric.version(), fabric.library().display(), fabric.lane(peer).unwrap());
    let perftest = perftest(arguments, fabric.library());
    let rounds: usize = arguments.get("rounds").map_or(20, |rounds| rounds.parse().unwrap());
    println!("{:<26} {:>6} {:>8} {:>8} {:>12}", "", "", "GB/s", "best", "ucx_perftest");
    for (count, size, gap) in
        [(2048, 16 << 10, true), (2048, 64 << 10, true), (128, 1 << 20, false), (8, 16 << 20, false)]
    {
        for direction in [Direction::Write, Direction::Read] {
            let mut request = request(peer, direction, count, size, gap);
            let mut speeds: Vec<f64> = (0..rounds).map(|_| speed(fabric, &request)).collect();
            speeds.sort_by(f64::total_cmp);
            let beside = perftest.as_deref().and_then(|tool| beside(tool, arguments, direction, size));
            let beside = beside.map_or_else(|| "-".into(), |speed| format!("{speed:.2}"));
            let what = format!("{count} x {} KiB{}", size >> 10, if gap { ", scattered" } else { "" });
            let (median, best) = (speeds[rounds / 2], speeds[rounds - 1]);
            println!("{what:<26} {:>6} {median:>8.2} {best:>8.2} {beside:>12}", word(direction));
            request.segments = Arc::from(&request.segments[..1]);
            if size <= 64 << 10 {
                let mut times: Vec<Duration> = (0..50 * rounds).map(|_| time(fabric, &request)).collect();
                times.sort_unstable();
                let median = times[times.len() / 2].as_secs_f64() * 1e6;
                println!("{:<26} {:>6} {median:>8.1} µs", format!("1 x {} KiB", size >> 10), word(direction));
            }
        }
    }
    if let Some(copy) = perftest {
        std::fs::remove_file(copy).unwrap();
    }
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    }
}

fn request(peer: PeerId, direction: Direction, count: u64, size: u64, gap: bool) -> Request {
    let stride = if gap { 2 * size } else { size };
    let place = |block: u64| Place { region: REGION_0, offset: block * stride };
    // Backwards, if they touch, so that each is an operation of its own.
    let there = |block: u64| if gap { block } else { count - 1 - block };
    let segments =
        (0..count).map(|block| Segment { local: place(block), remote: place(there(block)), len: size });
    let token = if direction == Direction::Read { READ } else { WRITE };
    Request {
        peer,
        direction,
        token,
        segments: segments.collect(),
        notify: None,
        deadline: None,
        checksum: false,
    }
}

fn time(fabric: &UcxFabric, request: &Request) -> Duration {
    let begin = Instant::now();
    let id = fabric.submit(request.clone()).unwrap();
    wait_for(fabric, |event| *event == Event::Done(id));
    begin.elapsed()
}

fn speed(fabric: &UcxFabric, request: &Request) -> f64 {
    let bytes: u64 = request.segments.iter().map(|segment| segment.len).sum();
    bytes as f64 / time(fabric, request).as_secs_f64() / 1e9
}

fn wait_for(fabric: &UcxFabric, wanted: impl Fn(&Event) -> bool) {
    let mut events = Vec::new();
    loop {
        fabric.poll(&mut events);
        for event in events.drain(..) {
            assert!(!matches!(event, Event::Failed(..) | Event::Lost(..)), "{event:?}");
            if wanted(&event) {
                return;
            }
        }
        poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
    }
}

/// A copy of UCX's tool that can be run: the one that was named, or the one of the library's wheel.
fn perftest(arguments: &Arguments, library: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let named = arguments.get("perftest").map(PathBuf::from);
    let found = named
        .or_else(|| Some(library.parent()?.parent()?.join("bin/ucx_perftest")))
        .filter(|file| file.exists());
    let Some(found) = found else {
        println!("no ucx_perftest is found beside the library; name it with perftest=FILE");
        return None;
    };
    // In the wheel, it cannot be executed.
    let copy = std::env::temp_dir().join(format!("kvferry-ucx_perftest-{}", std::process::id()));
    std::fs::copy(found, &copy).ok()?;
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o700)).ok()?;
    println!("beside {} (of the library's folder)", copy.display());
    Some(copy)
}

/// GB/s of UCX's own tool, of the same way and size, 32 at a time.
fn beside(tool: &Path, arguments: &Arguments, direction: Direction, size: u64) -> Option<f64> {
    // What the tool calls them: of its tests of puts, one is of bandwidth.
    let test = if direction == Direction::Read { "ucp_get" } else { "ucp_put_bw" };
    let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
    let run = |address: Option<&str>| -> std::io::Result<Child> {
        let mut command = Command::new(tool);
        command.args(address);
        let iterations = ((4 << 30) / size).clamp(200, 20_000);
        command.args(["-t", test, "-f", "-w", "20", "-O", "32"]);
        command.args(["-p", &port.to_string(), "-s", &size.to_string(), "-n", &iterations.to_string()]);
        command.envs([
            ("UCX_RNDV_THRESH", "inf"),
            ("UCX_TCP_TX_SEG_SIZE", "256k"),
            ("UCX_TCP_RX_SEG_SIZE", "256k"),
        ]);
        command.envs(arguments.get("transports").map(|transports| ("UCX_TLS", transports)));
        command.envs(arguments.get("paths").map(|paths| ("LD_LIBRARY_PATH", paths)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
    };
    let mut server = run(None).ok()?;
    std::thread::sleep(Duration::from_millis(500));
    let client = run(Some("127.0.0.1")).and_then(Child::wait_with_output);
    server.kill().ok();
    server.wait().ok();
    std::io::stdout().flush().ok()?;
    let text = String::from_utf8_lossy(&client.ok()?.stdout).into_owned();
    // The last line of nothing but numbers: iterations, three times, two speeds in MB/s (2^20), two rates.
    let is_number = |word: &str| word.parse::<f64>().is_ok();
    let line = text.lines().rev().find(|line| {
        let words = line.trim_start_matches("Final:").split_whitespace();
        words.clone().count() == 8 && words.clone().all(is_number)
    })?;
    let megabytes: f64 = line.split_whitespace().rev().nth(2)?.parse().ok()?;
    Some(megabytes * 1_048_576.0 / 1e9)
}
