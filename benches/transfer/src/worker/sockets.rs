//! The ceiling of TCP: plain blocking sockets, a thread for each stream on both sides, the same bytes from and into memory
//! as large as the fabric's. One stream and one block is the round trip that a single block is held against.
//!
//! A request is eight bytes: how many, and in the highest bit which way. Whoever serves never touches more than its own
//! memory, whatever is asked for.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use kvferry_bench_common::Result;
use serde_json::{Value, to_value};

use super::Holds;
use super::drive::Meter;
use crate::protocol::{Connected, Opened, Prepared, Ran, Setup, Shift, Verified};
use crate::work::{Op, Work};

/// Streams that are served: as many as the fabric takes at most.
const MAX_STREAMS: usize = 64;

/// In a request: bytes come this way.
const WRITES: u64 = 1 << 63;

/// Fewer bytes than this for each stream are not split: they would pay for a thread's waking.
const SPLIT: u64 = 64 << 10;

pub(super) struct Sockets {
    memory: Vec<u8>,
    streams: usize,
    host: IpAddr,
    peers: Vec<TcpStream>,
    op: Op,
    blocks: u64,
    bytes: u64,
}

impl Sockets {
    pub(super) fn open(setup: &Setup) -> Result<(Self, Opened)> {
        if !(1..=MAX_STREAMS).contains(&setup.streams) {
            return Err(format!("--streams must be 1 to {MAX_STREAMS}").into());
        }
        let begin = Instant::now();
        let memory = vec![1; usize::try_from(setup.bytes)?];
        let host = setup.host.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let opened = Opened { library: None, open_s: begin.elapsed().as_secs_f64(), register_s: 0.0 };
        let (streams, peers) = (setup.streams, Vec::new());
        Ok((Self { memory, streams, host, peers, op: Op::Read, blocks: 0, bytes: 0 }, opened))
    }
}

/// Answers requests on one stream until its other end is closed.
fn serve(mut stream: TcpStream, bytes: usize) {
    let mut memory = vec![1; bytes];
    let mut asked = [0; 8];
    while stream.read_exact(&mut asked).is_ok() {
        let asked = u64::from_le_bytes(asked);
        let mut left = asked & !WRITES;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(memory.len());
            let moved = if asked & WRITES == 0 {
                stream.write_all(&memory[..part])
            } else {
                stream.read_exact(&mut memory[..part])
            };
            if moved.is_err() {
                return;
            }
            left -= part as u64;
        }
        if asked & WRITES != 0 && stream.write_all(&[0]).is_err() {
            return;
        }
    }
}

fn ask(stream: &mut TcpStream, op: Op, memory: &mut [u8]) -> std::io::Result<()> {
    let bytes = memory.len() as u64;
    match op {
        Op::Read => {
            stream.write_all(&bytes.to_le_bytes())?;
            stream.read_exact(memory)
        }
        Op::Write => {
            stream.write_all(&(bytes | WRITES).to_le_bytes())?;
            stream.write_all(memory)?;
            stream.read_exact(&mut [0])
        }
    }
}

impl Holds for Sockets {
    fn fill(&mut self, _seed: u64) -> Result<()> {
        Ok(())
    }

    fn offer(&mut self) -> Result<Value> {
        let listener = TcpListener::bind(SocketAddr::new(self.host, 0))?;
        let address = listener.local_addr()?;
        // Each stream has its share of the memory, as at the driving side.
        let bytes = (self.memory.len() / self.streams).max(1);
        self.memory = Vec::new();
        thread::spawn(move || {
            for stream in listener.incoming().take(MAX_STREAMS).flatten() {
                // Without it, the last part of an answer waits for an acknowledgement.
                if stream.set_nodelay(true).is_ok() {
                    thread::spawn(move || serve(stream, bytes));
                }
            }
        });
        Ok(to_value(address)?)
    }

    fn connect(&mut self, offers: &[Value]) -> Result<Connected> {
        let begin = Instant::now();
        for offer in offers {
            let address: SocketAddr = serde_json::from_value(offer.clone())?;
            for _ in 0..self.streams {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                self.peers.push(stream);
            }
        }
        let lane = format!("{} streams", self.streams);
        Ok(Connected { lanes: vec![lane; offers.len()], seconds: begin.elapsed().as_secs_f64() })
    }

    fn prepare(&mut self, work: &Work, _shift: Shift) -> Result<Prepared> {
        let pieces = work.pieces()?;
        (self.op, self.blocks, self.bytes) = (work.op, pieces.list.len() as u64, pieces.bytes());
        if self.bytes > self.memory.len() as u64 {
            return Err("the work needs more memory than there is; open it with more".into());
        }
        Ok(Prepared { blocks: self.blocks, bytes: self.bytes, transfers: 1 })
    }

    fn run(&mut self, window: Duration) -> Result<Ran> {
        if self.peers.is_empty() || self.bytes == 0 {
            return Err("no work is prepared".into());
        }
        let Self { memory, peers, op, blocks, bytes, .. } = self;
        let streams = if *bytes / (peers.len() as u64) < SPLIT { 1 } else { peers.len() };
        let total = usize::try_from(*bytes)?;
        let mut meter = Meter::begin()?;
        if let [stream] = &mut peers[..streams] {
            while meter.lasts(window) || meter.is_new() {
                let begin = Instant::now();
                ask(stream, *op, &mut memory[..total])?;
                meter.done(*bytes, *blocks, begin.elapsed());
            }
            return meter.end();
        }
        // Each stream goes on by itself: nobody waits for the slowest of a pass, which makes it a ceiling.
        let run = |(stream, part): (&mut TcpStream, &mut [u8])| {
            let mut moved = 0;
            while moved == 0 || meter.lasts(window) {
                ask(stream, *op, part)?;
                moved += part.len() as u64;
            }
            Ok(moved)
        };
        let run = &run;
        let passes: Vec<std::io::Result<u64>> = thread::scope(|scope| {
            let parts = memory[..total].chunks_mut(total.div_ceil(streams));
            let threads: Vec<_> =
                peers.iter_mut().zip(parts).map(|pair| scope.spawn(move || run(pair))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a thread that cannot panic")).collect()
        });
        let moved: u64 = passes.into_iter().sum::<std::io::Result<u64>>()?;
        meter.many(moved / *bytes, moved, moved * *blocks / *bytes);
        meter.end()
    }

    fn verify(&mut self, _work: &Work, _seed: u64, _shift: Shift) -> Result<Verified> {
        Ok(Verified { bytes: 0, first_wrong: None })
    }

    fn flip(&mut self, _at: u64) -> Result<()> {
        Err("plain sockets are not verified".into())
    }
}
