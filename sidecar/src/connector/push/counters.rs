//! What push mode counts, for the metrics of spec/sidecar.md 12.6.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Since the start.
#[derive(Debug, Default)]
pub struct PushCounters {
    pub(super) cache_hit: AtomicU64,
    pub(super) cache_miss: AtomicU64,
    pub(super) serial_only: AtomicU64,
    pub(super) prefill_retry: AtomicU64,
    /// Decode legs sent again since prefill turned out to be somebody else.
    pub identity_mismatches: AtomicU64,
    /// Identities dropped after a failure.
    pub identity_drops: AtomicU64,
    /// Endpoints found to change their identity too often.
    pub serial_only_marks: AtomicU64,
}

impl PushCounters {
    /// Attempts, by mode and the reason for it.
    pub fn dispatches(&self) -> [(&'static str, &'static str, u64); 4] {
        [
            ("parallel", "cache_hit", self.cache_hit.load(Relaxed)),
            ("serial", "cache_miss", self.cache_miss.load(Relaxed)),
            ("serial", "serial_only", self.serial_only.load(Relaxed)),
            ("serial", "prefill_retry", self.prefill_retry.load(Relaxed)),
        ]
    }
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
