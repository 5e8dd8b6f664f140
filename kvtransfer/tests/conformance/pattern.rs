//! Bytes that say where they belong: each 8-byte word is a function of its offset and a seed, so a word that is missing,
//! stale or in the wrong place is a wrong word.
//!
//! They are copied from a table and compared with it, since tests run without optimisation and a gigabyte has many words. A
//! table has a mebibyte of words that all differ; from one mebibyte to the next, it is turned by an odd number of words.

use std::collections::HashMap;

use kvferry_transfer::memory::Region;
use kvferry_transfer::{Place, RegionId, Segment};
use serde::{Deserialize, Serialize};

use crate::random::Random;

const STEP: usize = 1 << 20;

/// By how many bytes the table is turned: a prime number of words, so that it comes round after 128 GiB only.
const TURN: u64 = 7919 * 8;

/// More tables than a case has seeds in use at a time.
const MAX_TABLES: usize = 8;

/// Tables by their seeds; each twice in a row, so that a turned one is contiguous, too.
#[derive(Default)]
pub struct Pattern {
    tables: HashMap<u64, Vec<u8>>,
}

impl Pattern {
    /// The bytes from `offset` on, as far as they are contiguous: at most `len`.
    fn bytes(&mut self, seed: u64, offset: u64, len: u64) -> &[u8] {
        if self.tables.len() == MAX_TABLES && !self.tables.contains_key(&seed) {
            self.tables.clear();
        }
        let table = self.tables.entry(seed).or_insert_with(|| {
            let mut random = Random::new(seed);
            let words: Vec<u8> = (0..STEP / 8).flat_map(|_| random.next().to_le_bytes()).collect();
            words.repeat(2)
        });
        let step = STEP as u64;
        let start = (offset % step + offset / step * TURN) % step;
        let count = len.min(step - offset % step);
        &table[usize::try_from(start).unwrap()..usize::try_from(start + count).unwrap()]
    }

    /// Fills `len` bytes from `at` on.
    pub fn fill(&mut self, region: &Region, at: u64, len: u64, seed: u64) {
        let mut done = 0;
        while done < len {
            let bytes = self.bytes(seed, at + done, len - done);
            assert!(region.write_at(at + done, bytes), "the case stays within its regions");
            done += bytes.len() as u64;
        }
    }

    /// The first of `len` bytes from `at` on that is not what was at `from` of a region filled with `seed`.
    pub fn first_wrong(&mut self, region: &Region, at: u64, from: u64, len: u64, seed: u64) -> Option<u64> {
        let mut found = vec![0; usize::try_from(len.min(STEP as u64)).unwrap()];
        let mut done = 0;
        while done < len {
            let right = self.bytes(seed, from + done, len - done);
            let found = &mut found[..right.len()];
            assert!(region.read_at(at + done, found), "the case stays within its regions");
            if found != right {
                let wrong = found.iter().zip(right).position(|(one, other)| one != other).unwrap();
                return Some(at + done + wrong as u64);
            }
            done += right.len() as u64;
        }
        None
    }
}

/// Blocks of one length, in two regions, in places of which no two follow one another on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    pub count: u64,
    pub len: u64,
    /// Bytes between two places.
    pub gap: u64,
    /// Where the first place is, here and there.
    pub here: u64,
    pub there: u64,
    /// In which order places are taken; 0 for the natural one.
    pub shuffle: u64,
}

impl Blocks {
    /// One, at the same offset on both sides.
    pub fn one(at: u64, len: u64) -> Self {
        Self { count: 1, len, gap: 0, here: at, there: at, shuffle: 0 }
    }

    /// Many, scattered.
    pub fn scattered(count: u64, len: u64) -> Self {
        Self { count, len, gap: len, here: 0, there: 0, shuffle: 1 }
    }

    /// Bytes from the first place to the end of the last.
    pub fn extent(&self) -> u64 {
        self.count * (self.len + self.gap)
    }

    /// Where each is: (here, there).
    pub fn places(&self) -> Vec<(u64, u64)> {
        let order = |seed| {
            if self.shuffle == 0 { (0..self.count).collect() } else { Random::new(seed).shuffled(self.count) }
        };
        let place = |start: u64, slot: u64| start + slot * (self.len + self.gap);
        let both = order(self.shuffle).into_iter().zip(order(self.shuffle + 1));
        both.map(|(here, there)| (place(self.here, here), place(self.there, there))).collect()
    }

    pub fn segments(&self, local: RegionId, remote: RegionId) -> Vec<Segment> {
        let place = |region, offset| Place { region, offset };
        let segment = |(here, there)| Segment {
            local: place(local, here),
            remote: place(remote, there),
            len: self.len,
        };
        self.places().into_iter().map(segment).collect()
    }
}
