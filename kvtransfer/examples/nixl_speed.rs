//! How fast the NIXL fabric moves bytes between two processes of this machine, blocks named by their addresses and blocks
//! that were prepared, in the same run. Arguments: `library=FILE plugin=UCX rounds=20 progress=off`; NIXL's plugin reads its
//! own environment, such as `UCX_TLS=tcp`, too.

#![expect(clippy::unwrap_used, reason = "an example may stop at what cannot be")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const REGION: u64 = 256 << 20;
const READ: Token = Token([1; 16]);
const WRITE: Token = Token([2; 16]);
const REGION_0: RegionId = RegionId(0);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let arguments: HashMap<&str, &str> = words.iter().filter_map(|word| word.split_once('=')).collect();
    let serve = words.iter().any(|word| word == "serve");
    let name = AgentName::new(if serve { "owner" } else { "initiator" }).unwrap();
    let usual = NixlOptions::new(name, Epoch(1), "127.0.0.1:0".parse().unwrap());
    let fabric = NixlFabric::open(NixlOptions {
        library: arguments.get("library").map(PathBuf::from),
        plugin: (*arguments.get("plugin").unwrap_or(&"UCX")).into(),
        progress_thread: arguments.get("progress") != Some(&"off"),
        telemetry: true,
        ..usual
    })
    .unwrap();
    // The same memory twice: once to be named by address, once by prepared blocks.
    let memory = touched();
    let plain = fabric.register(memory.clone()).unwrap();
    let prepared = fabric.register(memory).unwrap();
    if serve {
        return own(&fabric);
    }
    let rounds: usize = arguments.get("rounds").map_or(20, |rounds| rounds.parse().unwrap());
    initiate(&fabric, [plain, prepared], rounds, &words);
}

fn touched() -> Region {
    let region =
        Arena::create("speed", NonZeroUsize::new(usize::try_from(REGION).unwrap()).unwrap()).unwrap();
    for at in (0..REGION).step_by(4096) {
        assert!(region.write_at(at, &at.to_le_bytes()));
    }
    region
}

fn own(fabric: &NixlFabric) {
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

fn initiate(fabric: &NixlFabric, regions: [RegionId; 2], rounds: usize, words: &[String]) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(words)
        .arg("serve")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // NIXL may have something to say before.
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines().map(Result::unwrap);
    let metadata = lines.find_map(|line| Some(line.strip_prefix("metadata ")?.to_owned())).unwrap();
    let metadata: Vec<u8> = (0..metadata.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&metadata[at..at + 2], 16).unwrap())
        .collect();
    let begin = Instant::now();
    let peer = fabric.connect(&metadata).unwrap();
    wait_for(fabric, |event| matches!(event, Event::Connected(..)));
    println!(
        "NIXL {} ({}): {}, met in {:.1} ms",
        fabric.version(),
        fabric.library().display(),
        fabric.lane(peer).unwrap(),
        begin.elapsed().as_secs_f64() * 1e3
    );
    println!("{:<26} {:>6} {:>14} {:>14}   GB/s, median (best)", "", "", "by address", "prepared");
    for (count, size) in [(2048, 16 << 10), (2048, 64 << 10), (128, 1 << 20), (10_000, 4 << 10)] {
        fabric.blocks(regions[1], size).unwrap();
        for direction in [Direction::Write, Direction::Read] {
            let mut requests = regions.map(|local| request(peer, direction, local, count, size));
            let mut speeds = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (request, speeds) in requests.iter().zip(&mut speeds) {
                    speeds.push(speed(fabric, request));
                }
            }
            let [plain, prepared] = speeds.map(shown);
            let what = format!("{count} x {} KiB, scattered", size >> 10);
            println!("{what:<26} {:>6} {plain:>14} {prepared:>14}", word(direction));
            let request = &mut requests[0];
            request.segments = Arc::from(&request.segments[..1]);
            let mut times: Vec<Duration> = (0..50 * rounds).map(|_| time(fabric, request)).collect();
            times.sort_unstable();
            let median = times[times.len() / 2].as_secs_f64() * 1e6;
            println!("{:<26} {:>6} {median:>11.1} µs", format!("1 x {} KiB", size >> 10), word(direction));
        }
    }
    println!("{:?}", fabric.telemetry().unwrap());
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

fn shown(mut speeds: Vec<f64>) -> String {
    speeds.sort_by(f64::total_cmp);
    format!("{:.2} ({:.2})", speeds[speeds.len() / 2], speeds[speeds.len() - 1])
}

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Read => "read",
        Direction::Write => "write",
    }
}

/// Every other block, so that none is a neighbour of the next.
fn request(peer: PeerId, direction: Direction, local: RegionId, count: u64, size: u64) -> Request {
    let most = REGION / size / 2;
    let place = |region, block: u64| Place { region, offset: block % most * 2 * size };
    let segments = (0..count.min(most)).map(|block| Segment {
        local: place(local, block),
        remote: place(REGION_0, block),
        len: size,
    });
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

fn time(fabric: &NixlFabric, request: &Request) -> Duration {
    let begin = Instant::now();
    let id = fabric.submit(request.clone()).unwrap();
    wait_for(fabric, |event| *event == Event::Done(id));
    begin.elapsed()
}

fn speed(fabric: &NixlFabric, request: &Request) -> f64 {
    let bytes: u64 = request.segments.iter().map(|segment| segment.len).sum();
    bytes as f64 / time(fabric, request).as_secs_f64() / 1e9
}

fn wait_for(fabric: &NixlFabric, wanted: impl Fn(&Event) -> bool) {
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
