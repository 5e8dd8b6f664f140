//! How fast the TCP fabric moves scattered blocks between two processes on loopback, and how soon a single one is there,
//! beside what plain sockets do in the same run. Arguments: `streams=2 threads=1 window=4194304 rounds=40 busy=0 tls=0`;
//! `rounds=0` leaves throughput out, `busy` is `busy_poll` in µs, and `tls=1` encrypts.
#![expect(clippy::unwrap_used, reason = "an example may stop at what cannot be")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod plain;
mod tls;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::tcp::{TcpFabric, TcpOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::Arena;
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const BLOCKS: u64 = 2048;
const LARGEST: u64 = 64 << 10;
const REGION: u64 = 2 * BLOCKS * LARGEST;
const READ: Token = Token([1; 16]);
const WRITE: Token = Token([2; 16]);
const REGION_0: RegionId = RegionId(0);

fn main() {
    let mut options: HashMap<String, usize> =
        [("streams", 2), ("threads", 1), ("window", 4 << 20), ("rounds", 40), ("busy", 0), ("tls", 0)]
            .map(|(k, v)| (k.into(), v))
            .into();
    let mut serve = false;
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some((key, value)) => drop(options.insert(key.into(), value.parse().unwrap())),
            None => serve = argument == "serve",
        }
    }
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let name = AgentName::new(if serve { "owner" } else { "initiator" }).unwrap();
    let fabric = TcpFabric::open(TcpOptions {
        streams: options["streams"],
        threads: options["threads"],
        window: options["window"] as u64,
        busy_poll: Duration::from_micros(options["busy"] as u64),
        tls: (options["tls"] == 1).then(tls::tls),
        ..TcpOptions::new(name, Epoch(1), local)
    })
    .unwrap();
    let region =
        Arena::create("speed", NonZeroUsize::new(usize::try_from(REGION).unwrap()).unwrap()).unwrap();
    for at in (0..REGION).step_by(4096) {
        assert!(region.write_at(at, &at.to_le_bytes()));
    }
    fabric.register(region).unwrap();
    if serve { own(&fabric) } else { initiate(&fabric, &options) }
}

fn own(fabric: &TcpFabric) {
    for (token, access) in [(READ, Access::Read), (WRITE, Access::Write)] {
        let spans = vec![Span::new(REGION_0, 0, REGION)];
        let deadline = Instant::now() + Duration::from_secs(600);
        fabric.grant(Lease { token, access, spans, deadline }).unwrap();
    }
    let metadata = fabric.metadata().unwrap();
    let metadata = metadata.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    println!("{} {metadata}", plain::serve());
    let _ = std::io::stdin().read(&mut [0]);
}

fn wait_for(fabric: &TcpFabric, wanted: impl Fn(&Event) -> bool) {
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

fn request(peer: PeerId, direction: Direction, blocks: u64, size: u64, checksum: bool) -> Request {
    let place = |offset| Place { region: REGION_0, offset };
    let segments: Arc<[Segment]> = (0..blocks)
        .map(|block| Segment { local: place(block * 2 * size), remote: place(block * 2 * size), len: size })
        .collect();
    let token = if direction == Direction::Read { READ } else { WRITE };
    Request { peer, direction, token, segments, notify: None, deadline: None, checksum }
}

fn scattered(fabric: &TcpFabric, request: &Request, rounds: usize) -> Vec<f64> {
    let bytes: u64 = request.segments.iter().map(|segment| segment.len).sum();
    let round = |_| {
        let begin = Instant::now();
        let id = fabric.submit(request.clone()).unwrap();
        wait_for(fabric, |event| *event == Event::Done(id));
        bytes as f64 / begin.elapsed().as_secs_f64() / 1e9
    };
    (0..rounds).map(round).collect()
}

/// Of a single block, in µs: waiting for the descriptor, or polling without a pause.
fn latency(fabric: &TcpFabric, request: &Request, spin: bool) -> f64 {
    {
        let begin = Instant::now();
        let id = fabric.submit(request.clone()).unwrap();
        if spin {
            let mut events = Vec::new();
            while !events.contains(&Event::Done(id)) {
                fabric.poll(&mut events);
            }
        } else {
            wait_for(fabric, |event| *event == Event::Done(id));
        }
        begin.elapsed().as_secs_f64() * 1e6
    }
}

/// Shows them; their median.
fn show(what: &str, mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let at = |percent: usize| figures[(figures.len() - 1) * percent / 100];
    println!("{what:<38} p10 {:7.2}  p50 {:7.2}  p90 {:7.2}  p99 {:7.2}", at(10), at(50), at(90), at(99));
    at(50)
}

fn initiate(fabric: &TcpFabric, options: &HashMap<String, usize>) {
    let mut arguments: Vec<String> = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    arguments.push("serve".into());
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (plain_addresses, metadata) = line.trim().split_once(' ').unwrap();
    let (pouring, answering) = plain_addresses.split_once(',').unwrap();
    let metadata: Vec<u8> = (0..metadata.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&metadata[at..at + 2], 16).unwrap())
        .collect();
    let peer = fabric.connect(&metadata).unwrap();
    wait_for(fabric, |event| matches!(event, Event::Connected(connected, _) if *connected == peer));
    println!("{}, {options:?}; GB/s", fabric.lane(peer).unwrap());
    let rounds = options["rounds"];
    for _ in 0..2.min(rounds) {
        for streams in [1, 2, 4] {
            show(
                &format!("plain sockets, {streams} streams"),
                plain::throughput(pouring, streams, 128 << 20, rounds),
            );
        }
        for size in [16 << 10, LARGEST] {
            for (direction, checksum) in
                [(Direction::Read, false), (Direction::Write, false), (Direction::Read, true)]
            {
                let what = format!("{BLOCKS} x {} KiB {direction:?}, checked: {checksum}", size >> 10);
                show(&what, scattered(fabric, &request(peer, direction, BLOCKS, size, checksum), rounds));
            }
        }
    }
    one_block(fabric, peer, answering);
    drop(owner.stdin.take());
    owner.wait().unwrap();
}

/// Plain sockets and reads in turns, so that both meet the same moments of the machine.
fn one_block(fabric: &TcpFabric, peer: PeerId, answering: &str) {
    println!("one block of 16 KiB, µs");
    let one = request(peer, Direction::Read, 1, 16 << 10, false);
    let (mut asking, mut memory) = (plain::Asking::new(answering), vec![0; 16 << 10]);
    let mut figures = [const { Vec::new() }; 3];
    for _ in 0..40 {
        figures[0].extend((0..250).map(|_| asking.ask(&mut memory)));
        figures[1].extend((0..250).map(|_| latency(fabric, &one, false)));
        figures[2].extend((0..250).map(|_| latency(fabric, &one, true)));
    }
    let names = ["plain socket, both ends in poll(2)", "read, waiting for the descriptor", "read, polling"];
    let medians: Vec<f64> =
        names.into_iter().zip(figures).map(|(what, figures)| show(what, figures)).collect();
    println!(
        "of the plain socket: waiting {:.2}, polling {:.2}",
        medians[1] / medians[0],
        medians[2] / medians[0]
    );
}
