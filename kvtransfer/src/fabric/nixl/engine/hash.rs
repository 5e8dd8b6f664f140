//! Checksums of this side's bytes, a little at a time, so that nothing else waits for them.
//!
//! CRC-32 of each range, on both sides: it finds every change of up to 32 bits in a row, and all but one in four thousand
//! million others.

use std::collections::VecDeque;

use super::Engine;
use crate::fabric::nixl::limits::HASH_STEP;
use crate::segment::Span;
use crate::{PeerId, TransferId};

/// Bytes copied at a time: others may write them meanwhile, so they are hashed where they are ours alone. Fits into a
/// core's second cache.
const SCRATCH: usize = 64 << 10;

/// Whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// A transfer of this side.
    Mine(TransferId),
    /// A peer's request.
    Theirs(PeerId, u64),
}

#[derive(Debug)]
pub(super) struct Hashing {
    job: Job,
    spans: VecDeque<Span>,
    sum: crc32fast::Hasher,
    sums: Vec<u32>,
}

impl Engine {
    pub(super) fn begin_hashing(&mut self, job: Job, spans: Vec<Span>) {
        let (sum, sums) = (crc32fast::Hasher::new(), Vec::with_capacity(spans.len()));
        self.hashing.push_back(Hashing { job, spans: spans.into(), sum, sums });
    }

    /// Hashes a little, in turns. Returns whether there was anything.
    pub(super) fn hash(&mut self) -> bool {
        let Some(mut hashing) = self.hashing.pop_front() else { return false };
        if !self.is_wanted(hashing.job) {
            return true;
        }
        let (mut left, mut scratch) = (HASH_STEP, vec![0; SCRATCH]);
        while let Some(span) = hashing.spans.front_mut().filter(|_| left > 0) {
            let len = span.len.min(left).min(SCRATCH as u64);
            let bytes = &mut scratch[..usize::try_from(len).unwrap_or(SCRATCH)];
            let region = self.mapped.get(&span.at.region).map(|mapped| &mapped.region);
            if len > 0 && !region.is_some_and(|region| region.read_at(span.at.offset, bytes)) {
                debug_assert!(false, "host memory that a lease or a transfer names is there");
            }
            hashing.sum.update(bytes);
            (span.at.offset, span.len, left) = (span.at.offset + len, span.len - len, left - len);
            if span.len == 0 {
                hashing.spans.pop_front();
                hashing.sums.push(std::mem::take(&mut hashing.sum).finalize());
            }
        }
        if hashing.spans.is_empty() {
            match hashing.job {
                Job::Mine(transfer) => self.hashed_mine(transfer, hashing.sums),
                Job::Theirs(peer, number) => self.hashed_theirs(peer, number, &hashing.sums),
            }
        } else {
            self.hashing.push_back(hashing);
        }
        true
    }

    fn is_wanted(&self, job: Job) -> bool {
        match job {
            Job::Mine(transfer) => self.transfers.contains_key(&transfer),
            Job::Theirs(peer, number) => {
                self.peers.get(&peer).is_some_and(|peer| peer.serving.contains_key(&number))
            }
        }
    }
}
