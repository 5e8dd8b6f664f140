//! How fast the shm fabric moves scattered blocks between two processes, beside a plain copy of the same blocks with as many
//! threads, in the same run and by turns: medians, and their ratio. Arguments: `threads=1 rounds=21`.
#![expect(clippy::unwrap_used, reason = "an example may stop at what cannot be")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(unsafe_code, reason = "the plain copy, from one mapping to another as the fabric's")]

use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::ptr;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::shm::{Options, Shm};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const REGION: u64 = 256 << 20;
const READ: Token = Token([1; 16]);
const WRITE: Token = Token([2; 16]);
const ONLY: RegionId = RegionId(0);

/// Blocks of a transfer, and bytes of each. All but the last are as many as a transfer of 8K tokens has, or fit.
const SHAPES: [(u64, u64); 5] =
    [(20_000, 4 << 10), (2048, 16 << 10), (2048, 64 << 10), (128, 1 << 20), (1, REGION / 2)];

fn main() {
    let (mut threads, mut rounds, mut serve) = (NonZeroUsize::MIN, 21, false);
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("threads", value)) => threads = value.parse().unwrap(),
            Some(("rounds", value)) => rounds = value.parse().unwrap(),
            _ => serve = argument == "serve",
        }
    }
    let name = AgentName::new(if serve { "owner" } else { "initiator" }).unwrap();
    let fabric = Shm::open(Options { threads, ..Options::new(name, Epoch(1)) }).unwrap();
    let region = touched();
    fabric.register(region.clone()).unwrap();
    if serve { own(&fabric) } else { initiate(&fabric, &region, threads.get(), rounds) }
}

fn touched() -> Region {
    let region =
        Arena::create("speed", NonZeroUsize::new(usize::try_from(REGION).unwrap()).unwrap()).unwrap();
    for at in (0..REGION).step_by(4096) {
        assert!(region.write_at(at, &at.to_le_bytes()));
    }
    region
}

fn own(fabric: &Shm) {
    for (token, access) in [(READ, Access::Read), (WRITE, Access::Write)] {
        let spans = vec![Span::new(ONLY, 0, REGION)];
        let deadline = Instant::now() + Duration::from_secs(3600);
        fabric.grant(Lease { token, access, spans, deadline }).unwrap();
    }
    let bytes: Vec<String> = fabric.metadata().unwrap().iter().map(u8::to_string).collect();
    println!("{}", bytes.join(" "));
    // Until the other lets go.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn initiate(fabric: &Shm, region: &Region, threads: usize, rounds: usize) {
    let mut child = Command::new("/proc/self/exe")
        .args(["serve", &format!("threads={threads}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let metadata: Vec<u8> = line.split_whitespace().map(|byte| byte.parse().unwrap()).collect();
    let peer = fabric.connect(&metadata).unwrap();
    wait_for(fabric, |event| matches!(event, Event::Connected(..)));

    println!(
        "{threads} copying thread(s), {rounds} rounds, GB/s (medians); lane {}",
        fabric.lane(peer).unwrap()
    );
    println!(
        "{:>7} {:>9} {:>8} {:>8} {:>6} {:>8} {:>6}",
        "blocks", "bytes", "memcpy", "read", "ratio", "write", "ratio"
    );
    let source = touched();
    for (count, len) in SHAPES {
        let segments = segments(count, len);
        let mut figures = [const { Vec::new() }; 3];
        for _ in 0..=rounds {
            let bytes = (count * len) as f64;
            let mut timed = |at: usize, run: &mut dyn FnMut()| {
                let begin = Instant::now();
                run();
                figures[at].push(bytes / begin.elapsed().as_secs_f64() / 1e9);
            };
            timed(0, &mut || plain(&source, region, &segments, threads));
            timed(1, &mut || transfer(fabric, peer, Direction::Read, &segments));
            timed(2, &mut || transfer(fabric, peer, Direction::Write, &segments));
        }
        let [memcpy, read, write] = figures.map(|figures| median(&figures[1..]));
        println!(
            "{count:>7} {len:>9} {memcpy:>8.2} {read:>8.2} {:>6.2} {write:>8.2} {:>6.2}",
            read / memcpy,
            write / memcpy
        );
    }
    latency(fabric, peer, Direction::Read, "read");
    latency(fabric, peer, Direction::Write, "write");
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// In places of which no two follow one another on both sides, in an order that is not that of memory.
fn segments(count: u64, len: u64) -> Vec<Segment> {
    let place = |slot: u64| Place { region: ONLY, offset: slot * (REGION / count).max(len) };
    // Odd, so that it meets every slot of a power of two, and no divisor of the other count.
    let shuffled = |slot: u64, step: u64| place(slot * step % count);
    (0..count).map(|slot| Segment { local: shuffled(slot, 7), remote: shuffled(slot, 11), len }).collect()
}

/// What no fabric can beat: the same blocks, copied here.
fn plain(from: &Region, to: &Region, segments: &[Segment], threads: usize) {
    let share = segments.len().div_ceil(threads);
    std::thread::scope(|scope| {
        for part in segments.chunks(share) {
            let copy = move || {
                for Segment { local, remote, len } in part {
                    let from = from.address(remote.offset, *len).unwrap();
                    let to = to.address(local.offset, *len).unwrap();
                    // SAFETY: both regions have these bytes, and they are two.
                    unsafe {
                        ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), usize::try_from(*len).unwrap());
                    };
                }
            };
            if threads == 1 { copy() } else { drop(scope.spawn(copy)) }
        }
    });
}

fn transfer(fabric: &Shm, peer: PeerId, direction: Direction, segments: &[Segment]) {
    let token = if direction == Direction::Read { READ } else { WRITE };
    let segments = segments.into();
    let request = Request { peer, direction, token, segments, notify: None, deadline: None, checksum: false };
    let id = fabric.submit(request).unwrap();
    wait_for(fabric, |event| *event == Event::Done(id));
}

fn latency(fabric: &Shm, peer: PeerId, direction: Direction, name: &str) {
    let segments = segments(1, 16 << 10);
    let mut micros: Vec<f64> = (0..5000)
        .map(|_| {
            let begin = Instant::now();
            transfer(fabric, peer, direction, &segments);
            begin.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_unstable_by(f64::total_cmp);
    println!("one block of 16 KiB, {name}: p50 {:.1} us, p99 {:.1} us", micros[2500], micros[4950]);
}

fn wait_for(fabric: &Shm, wanted: impl Fn(&Event) -> bool) {
    let mut events = Vec::new();
    loop {
        poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
        fabric.poll(&mut events);
        for event in events.drain(..) {
            assert!(!matches!(event, Event::Failed(..) | Event::Lost(..)), "{event:?}");
            if wanted(&event) {
                return;
            }
        }
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
