//! What goes wrong, and how often.

use std::time::Duration;

/// Chances are out of 1000; one roll for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Which dice.
    pub seed: u64,
    /// A transfer is refused when it is submitted.
    pub fail_submit: u32,
    /// A transfer that is done is said to have failed.
    pub fail_done: u32,
    /// A transfer's end is never said, unless its peer is lost.
    pub drop: u32,
    /// A transfer's end, or a lease's, is said later, by [`delay_by`](Self::delay_by).
    pub delay: u32,
    /// How much later.
    pub delay_by: Duration,
    /// A transfer's end is said after ends that come in the next moment.
    pub reorder: u32,
    /// A message is delivered twice.
    pub duplicate_notify: u32,
    /// One byte of what a transfer moved is changed where it arrived.
    pub corrupt: u32,
    /// The peer is lost when a transfer with it is done.
    pub lose_peer: u32,
    /// At most so many faults in all; 0: no limit.
    pub at_most: u64,
}

/// What went wrong so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Submits refused.
    pub failed_submits: u64,
    /// Ends that were said to be failures.
    pub failed_ends: u64,
    /// Ends that were not said.
    pub dropped: u64,
    /// Ends said later.
    pub delayed: u64,
    /// Ends said out of order.
    pub reordered: u64,
    /// Messages said twice.
    pub duplicated: u64,
    /// Bytes changed.
    pub corrupted: u64,
    /// Peers lost.
    pub lost_peers: u64,
}

impl Counts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.failed_submits
            + self.failed_ends
            + self.dropped
            + self.delayed
            + self.reordered
            + self.duplicated
            + self.corrupted
            + self.lost_peers
    }
}

/// Numbers that repeat when their seed does (xorshift64*).
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.next();
        }
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same_dice_and_another_rolls_others() {
        let roll = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(roll(1), roll(1));
        assert_ne!(roll(1), roll(2));
    }
}
