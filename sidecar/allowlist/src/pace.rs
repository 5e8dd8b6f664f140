//! How long to wait before the API server is asked again.
//!
//! Many sidecars lose the same API server at the same moment; waits that grow and differ keep them from coming
//! back as one wave.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// The first wait. A watch that ends in the ordinary way is taken up again after it, so it bounds by how much a
/// change can be late; short enough to go unnoticed beside the kubelet's own delays.
const FLOOR: Duration = Duration::from_millis(100);

/// The longest wait: by this much the list may lag behind an API server that has come back, or a Role that was
/// granted. Half a minute is what the other watchers in a cluster use.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// Waits that double from [`FLOOR`] to [`CEILING`], each cut at random by up to one half.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waits: u32,
}

impl Pace {
    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FLOOR.saturating_mul(2_u32.saturating_pow(self.waits)).min(CEILING);
        self.waits = self.waits.saturating_add(1);
        // The standard library's hash keys are random, and that is randomness enough to spread callers.
        let cut = RandomState::new().build_hasher().finish() % 512;
        full.mul_f64(1.0 - f64::from(u16::try_from(cut).unwrap_or(0)) / 1024.0)
    }

    /// Starts over: the other side is doing well.
    pub(crate) fn reset(&mut self) {
        self.waits = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_start_over() {
        let mut pace = Pace::default();
        for waits in 0..100_u32 {
            let full = FLOOR.saturating_mul(2_u32.saturating_pow(waits)).min(CEILING);
            let wait = pace.next();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
        pace.reset();
        assert!(pace.next() <= FLOOR);
    }
}
