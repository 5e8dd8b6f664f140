//! Maps by numbers that this side draws itself, one after the other: nobody can choose them to collide, so hashing them
//! may be cheap. A short transfer looks some twenty things up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// See the module. Not for what a peer numbers.
pub(super) type ByNumber<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Spreads a number over all bits (Fibonacci hashing).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NumberHasher(u64);

/// 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        // The upper bits are the well-mixed ones, and maps look at both ends.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(SPREAD);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::Hash;

    use super::*;
    use crate::TransferId;

    #[test]
    fn numbers_in_a_row_are_told_apart_by_either_end_of_their_hashes() {
        let hash = |number: u64| {
            let mut hasher = NumberHasher::default();
            TransferId(number).hash(&mut hasher);
            hasher.finish()
        };
        let low: HashSet<u64> = (0..1024).map(|number| hash(number) % 4096).collect();
        let high: HashSet<u64> = (0..1024).map(|number| hash(number) >> 52).collect();
        assert!(low.len() > 800 && high.len() > 800, "{} {}", low.len(), high.len());
    }
}
