//! Numbers that a seed decides, the same on every machine and in every language that a peer is driven from.

/// SplitMix64: one number for each 64-bit input, all of them different.
pub const fn mix(input: u64) -> u64 {
    let mut z = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of them.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Begins anew for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// All numbers below `count`, in some order.
    pub fn shuffled(&mut self, count: u64) -> Vec<u64> {
        let mut all: Vec<u64> = (0..count).collect();
        for at in (1..all.len()).rev() {
            // The bias of a remainder is of no matter to a bench.
            let other = self.next() % (at as u64 + 1);
            all.swap(at, usize::try_from(other).expect("an index below a list's length"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_order_and_every_number_is_there_once() {
        let one = Random::new(1).shuffled(1000);
        assert_eq!(one, Random::new(1).shuffled(1000));
        assert_ne!(one, Random::new(2).shuffled(1000));
        let mut sorted = one.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn the_published_vector_comes_out() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }
}
