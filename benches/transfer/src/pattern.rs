//! Which blocks a run moves, as both sides compute it from the same few numbers: nothing but those numbers travels, and
//! whoever serves can bound them before a list of two million segments is made.

use serde::{Deserialize, Serialize};

use kvferry_bench_common::Result;

use crate::model;
use crate::random::Random;

/// The most segments of a pattern: 128K tokens of Llama-70B, uncoalesced, which is also what a transfer takes at most.
pub const MAX_SEGMENTS: u64 = 1 << 21;

/// The most bytes between the first and the last of a pattern, on one side: more than any machine's memory, and sums of
/// two stay far from overflow.
pub const MAX_EXTENT: u64 = 1 << 46;

/// How blocks follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Neighbours on both sides: what a fresh cache gives. Fabrics may join them.
    Contiguous,
    /// Each followed by a hole of its own size: nothing can be joined, and both sides walk forward.
    Strided,
    /// In an order that a seed decides, another one on each side: what a cache in use gives.
    Shuffled,
    /// Neighbours on one side, backwards on the other: nothing can be joined, and no more memory is used than moved.
    Backwards,
}

/// Blocks of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raw {
    /// How many.
    pub count: u64,
    /// Bytes of each.
    pub size: u64,
    /// Where they lie.
    pub order: Order,
}

/// What is moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Blocks of one length.
    Raw(Raw),
    /// A sequence of a model.
    Model(model::Sequence),
}

/// One run of bytes. Offsets are from the begin of each side's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// At the side that drives.
    pub local: u64,
    /// At the side that is driven.
    pub remote: u64,
    /// Bytes.
    pub len: u64,
}

/// What a pattern comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// In the order in which they are asked for.
    pub list: Vec<Piece>,
    /// Bytes that the driving side's memory must have.
    pub local_extent: u64,
    /// Bytes that the driven side's memory must have.
    pub remote_extent: u64,
}

impl Pieces {
    /// Bytes moved.
    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|piece| piece.len).sum()
    }

    /// The length of every piece, if they have one and all lie where a whole number of such lengths ends.
    pub fn even_len(&self) -> Option<u64> {
        let len = self.list.first()?.len;
        let fits = |piece: &Piece| {
            piece.len == len && piece.local.is_multiple_of(len) && piece.remote.is_multiple_of(len)
        };
        self.list.iter().all(fits).then_some(len)
    }
}

impl Pattern {
    /// The pieces, for a transfer that reads from the driven side (`true`) or writes to it.
    ///
    /// # Errors
    /// When the numbers are out of bounds, or name no cache that can be.
    pub fn pieces(&self, reads: bool) -> Result<Pieces> {
        match self {
            Self::Raw(raw) => raw.pieces(),
            Self::Model(sequence) => sequence.pieces(reads),
        }
    }

    /// In words, short enough for a table's head.
    pub fn describe(&self) -> String {
        match self {
            Self::Raw(Raw { count, size, order }) => {
                let order = format!("{order:?}").to_lowercase();
                format!("{count} x {}, {order}", crate::size::show(*size))
            }
            Self::Model(sequence) => sequence.describe(),
        }
    }
}

impl Raw {
    fn pieces(&self) -> Result<Pieces> {
        let Self { count, size, order } = *self;
        if !(1..=MAX_SEGMENTS).contains(&count) {
            return Err(format!("{count} blocks: there must be 1 to {MAX_SEGMENTS}").into());
        }
        let step = if order == Order::Strided { size.checked_mul(2) } else { Some(size) };
        let extent = step.and_then(|step| step.checked_mul(count)).filter(|bytes| *bytes <= MAX_EXTENT);
        let (Some(step), Some(extent)) = (step, extent) else {
            return Err(format!("{count} blocks of {size} bytes are more than any machine has").into());
        };
        if size == 0 {
            return Err("blocks of no bytes measure nothing".into());
        }
        let slots = |seed| -> Vec<u64> {
            if order == Order::Shuffled { Random::new(seed).shuffled(count) } else { (0..count).collect() }
        };
        let there = |slot: u64| if order == Order::Backwards { count - 1 - slot } else { slot };
        let list = slots(1).into_iter().zip(slots(2)).map(|(local, remote)| Piece {
            local: local * step,
            remote: there(remote) * step,
            len: size,
        });
        Ok(Pieces { list: list.collect(), local_extent: extent, remote_extent: extent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(count: u64, size: u64, order: Order) -> Pieces {
        Pattern::Raw(Raw { count, size, order }).pieces(true).unwrap()
    }

    fn joinable(pieces: &Pieces) -> usize {
        let goes_on = |pair: &[Piece]| {
            pair[0].local + pair[0].len == pair[1].local && pair[0].remote + pair[0].len == pair[1].remote
        };
        pieces.list.windows(2).filter(|pair| goes_on(pair)).count()
    }

    #[test]
    fn every_block_is_moved_once_and_stays_in_its_memory() {
        for order in [Order::Contiguous, Order::Strided, Order::Shuffled, Order::Backwards] {
            let pieces = raw(64, 4096, order);
            assert_eq!((pieces.list.len(), pieces.bytes()), (64, 64 * 4096), "{order:?}");
            for side in [|piece: &Piece| piece.local, |piece: &Piece| piece.remote] {
                let mut places: Vec<u64> = pieces.list.iter().map(side).collect();
                places.sort_unstable();
                places.dedup();
                assert_eq!(places.len(), 64, "{order:?}");
                assert!(places[63] + 4096 <= pieces.local_extent.min(pieces.remote_extent), "{order:?}");
            }
        }
    }

    #[test]
    fn only_contiguous_blocks_can_be_joined() {
        assert_eq!(joinable(&raw(64, 4096, Order::Contiguous)), 63);
        assert_eq!(joinable(&raw(64, 4096, Order::Strided)), 0);
        assert_eq!(joinable(&raw(64, 4096, Order::Backwards)), 0);
        assert!(joinable(&raw(1024, 4096, Order::Shuffled)) < 8);
    }

    #[test]
    fn strided_blocks_need_twice_their_bytes_and_backward_ones_only_their_own() {
        assert_eq!(raw(10, 100, Order::Strided).local_extent, 2000);
        assert_eq!(raw(10, 100, Order::Backwards).remote_extent, 1000);
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_before_anything_is_made() {
        for (count, size) in [(0, 1), (MAX_SEGMENTS + 1, 1), (1, 0), (MAX_SEGMENTS, 1 << 40), (2, u64::MAX)] {
            let raw = Raw { count, size, order: Order::Strided };
            assert!(Pattern::Raw(raw).pieces(true).is_err(), "{count} x {size}");
        }
    }
}
