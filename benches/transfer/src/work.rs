//! One thing to measure: a pattern, which way it goes, and how it is cut into transfers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use kvferry_bench_common::Result;

use crate::pattern::{Pattern, Pieces};

/// Which way bytes go, as the driving side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// From the peer to here.
    Read,
    /// From here to the peer.
    Write,
}

impl Op {
    /// As in names of cells.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The most transfers in flight: far above what keeps any lane busy.
pub const MAX_DEPTH: usize = 1024;

/// What is moved and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Which way.
    pub op: Op,
    /// Which blocks.
    pub pattern: Pattern,
    /// Blocks of one transfer; 0 for all of them.
    pub batch: usize,
    /// Transfers in flight, with each peer.
    pub depth: usize,
    /// Whether the fabric checks every range's bytes.
    pub checksum: bool,
}

impl Work {
    /// The pieces of one pass.
    ///
    /// # Errors
    /// When the pattern or the depth is out of bounds.
    pub fn pieces(&self) -> Result<Pieces> {
        if !(1..=MAX_DEPTH).contains(&self.depth) {
            return Err(format!(
                "a depth of {}: there must be 1 to {MAX_DEPTH} transfers in flight",
                self.depth
            )
            .into());
        }
        self.pattern.pieces(self.op == Op::Read)
    }

    /// Blocks of one transfer, of `count` in a pass.
    pub fn batch_of(&self, count: usize) -> usize {
        if self.batch == 0 { count.max(1) } else { self.batch }
    }
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Rounds that count; one more goes before them to warm up.
    pub rounds: usize,
    /// A round repeats the pattern until so much time has passed.
    pub window: Duration,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pattern::{Order, Raw};

    /// A few small blocks, read one transfer at a time.
    pub(crate) fn work() -> Work {
        let pattern = Pattern::Raw(Raw { count: 8, size: 4096, order: Order::Strided });
        Work { op: Op::Read, pattern, batch: 0, depth: 1, checksum: false }
    }

    #[test]
    fn a_depth_out_of_bounds_is_refused() {
        for depth in [0, MAX_DEPTH + 1] {
            assert!(Work { depth, ..work() }.pieces().unwrap_err().to_string().contains("depth"));
        }
        assert_eq!(work().batch_of(8), 8);
        assert_eq!(Work { batch: 3, ..work() }.batch_of(8), 3);
    }
}
