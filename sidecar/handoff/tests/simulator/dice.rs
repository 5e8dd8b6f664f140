//! Seeded chance, the same everywhere.

/// "Never" is beyond every limit.
pub(crate) const NEVER: u64 = u64::MAX;

/// Longest that any engine of the model thinks, in milliseconds.
pub(crate) const SLOWEST: u64 = 400;

/// xorshift64*: small and quick.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn delay(&mut self) -> u64 {
        if self.chance(5) { NEVER } else { self.below(SLOWEST) }
    }
}
