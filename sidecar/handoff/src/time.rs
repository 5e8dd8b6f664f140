//! Time as the core sees it: something that its caller brings along.

use std::ops::Add;
use std::time::Duration;

/// A point in time, as the distance from a start that the caller chose once. Monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time(Duration);

impl Time {
    /// The time this long after the caller's start.
    pub fn since_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// The distance from the caller's start.
    pub fn elapsed(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates: a limit of "for ever" stays for ever.
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}
