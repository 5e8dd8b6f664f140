//! Bounds of one request, and what it may do when its prefill fails.

use std::num::NonZeroU8;
use std::time::Duration;

/// Bounds of one request. `None`: no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long the prefill leg may take.
    pub prefill: Option<Duration>,
    /// How long both legs together may take, from the request's start to the answer's last byte.
    pub request: Option<Duration>,
    /// How long the decode engine may send nothing while its answer is waited for.
    pub decode_stall: Option<Duration>,
    /// How long a prefill leg that nobody waits for any more is still listened to before it is cancelled. Zero: it is
    /// cancelled at once.
    pub prefill_grace: Duration,
    /// Pause before the first release attempt if the decode leg was already sent, so that a release never overtakes the
    /// request it belongs to: released first and scheduled later, the decode engine could read freed blocks.
    pub release_grace: Duration,
    /// How long one release attempt may take.
    pub release_attempt: Duration,
    /// Pause between release attempts.
    pub release_pause: Duration,
    /// How often a release is tried before the KV is left to the engine's lease.
    pub release_attempts: NonZeroU8,
}

impl Limits {
    /// The longest that a request can outlive its end (client gone, leg failed, deadline passed).
    pub fn longest_release(&self) -> Duration {
        self.release_grace
            + (self.release_attempt + self.release_pause) * u32::from(self.release_attempts.get())
    }
}

/// What a request may do when its prefill fails, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Further attempts at the same engine, for failures that pass.
    pub same: u32,
    /// Pause before each of them.
    pub pause: Duration,
    /// Other candidates to go to. Each gets `same` further attempts again.
    pub others: usize,
    /// At last, ask whether the decode engine may compute the prompt itself.
    pub local: bool,
}

impl Recovery {
    /// Whether anything but a repetition at the same engine is allowed.
    pub(crate) fn leaves_the_engine(&self) -> bool {
        self.others > 0 || self.local
    }
}
