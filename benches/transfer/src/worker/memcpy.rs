//! The ceiling of shared memory: the same blocks, copied by plain copies of this process, with as many threads.

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use kvferry_bench_common::Result;
use kvferry_transfer::memory::{Arena, Region};
use serde_json::Value;

use super::Holds;
use super::drive::Meter;
use crate::fill;
use crate::pattern::Piece;
use crate::protocol::{Connected, Opened, Prepared, Ran, Setup, Shift, Verified};
use crate::work::Work;

pub(super) struct Memcpy {
    from: Vec<u8>,
    /// Shared memory, as a fabric's destinations are: its pages cost more than a process's own.
    to: Region,
    threads: usize,
    pieces: Vec<Piece>,
}

impl Memcpy {
    pub(super) fn open(setup: &Setup) -> Result<(Self, Opened)> {
        let bytes = usize::try_from(setup.bytes)?;
        let begin = Instant::now();
        let to = Arena::create("kvferry-bench", NonZeroUsize::new(bytes).ok_or("memory of no bytes")?)?;
        if !fill::fill(&to, 0) {
            return Err("the memory cannot be written".into());
        }
        let (threads, pieces) = (setup.threads.max(1), Vec::new());
        let opened = Opened { library: None, open_s: begin.elapsed().as_secs_f64(), register_s: 0.0 };
        Ok((Self { from: vec![1; bytes], to, threads, pieces }, opened))
    }

    fn copy(&self, pieces: &[Piece]) {
        for Piece { local, remote, len } in pieces {
            let range = |at: u64| usize::try_from(at).expect("the work was checked against the memory");
            let from = &self.from[range(*remote)..range(remote + len)];
            assert!(self.to.write_at(*local, from), "the work was checked against the memory");
        }
    }
}

impl Holds for Memcpy {
    fn fill(&mut self, _seed: u64) -> Result<()> {
        Ok(())
    }

    fn offer(&mut self) -> Result<Value> {
        Err("a plain copy has no other side".into())
    }

    fn connect(&mut self, _offers: &[Value]) -> Result<Connected> {
        Ok(Connected { lanes: vec!["memcpy".into()], seconds: 0.0 })
    }

    fn prepare(&mut self, work: &Work, _shift: Shift) -> Result<Prepared> {
        let pieces = work.pieces()?;
        if pieces.local_extent.max(pieces.remote_extent) > self.to.len() {
            return Err("the work needs more memory than there is; open it with more".into());
        }
        let (blocks, bytes) = (pieces.list.len() as u64, pieces.bytes());
        self.pieces = pieces.list;
        Ok(Prepared { blocks, bytes, transfers: 1 })
    }

    fn run(&mut self, window: Duration) -> Result<Ran> {
        let share = self.pieces.len().div_ceil(self.threads).max(1);
        let mut meter = Meter::begin()?;
        loop {
            let begin = Instant::now();
            thread::scope(|scope| {
                let mut parts = self.pieces.chunks(share);
                let first = parts.next();
                for part in parts {
                    let this = &*self;
                    scope.spawn(move || this.copy(part));
                }
                self.copy(first.unwrap_or_default());
            });
            let bytes = self.pieces.iter().map(|piece| piece.len).sum();
            meter.done(bytes, self.pieces.len() as u64, begin.elapsed());
            if !meter.lasts(window) {
                return meter.end();
            }
        }
    }

    fn verify(&mut self, _work: &Work, _seed: u64, _shift: Shift) -> Result<Verified> {
        Ok(Verified { bytes: 0, first_wrong: None })
    }

    fn flip(&mut self, _at: u64) -> Result<()> {
        Err("a plain copy is not verified".into())
    }
}
