//! Numbers that repeat when their seed does.

/// A sequence (xorshift64*).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// The numbers below `count`, shuffled.
    pub fn shuffled(&mut self, count: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..count).collect();
        for at in (1..numbers.len()).rev() {
            numbers.swap(at, usize::try_from(self.below(at as u64 + 1)).unwrap());
        }
        numbers
    }
}

/// The seed of this run: `KVFERRY_SEED`, or the time.
pub fn seed() -> u64 {
    let given =
        std::env::var("KVFERRY_SEED").ok().map(|seed| seed.parse().expect("KVFERRY_SEED is a number"));
    given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs() * 1000 + u64::from(now.subsec_millis())
    })
}
