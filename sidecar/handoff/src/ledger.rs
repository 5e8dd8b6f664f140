//! Who still holds KV cache on our account.
//!
//! Every handle that a prefill hands out is entered once and ends in exactly one of *consumed* (the decode engine has
//! read it), *released* (the prefill engine was told to free it) or *expired* (left to the engine's own lease, because
//! nobody could be told). The rule is in the type: [`Held`] cannot be copied, settling it takes it away, and one that
//! is dropped unsettled, on whatever path, counts as expired. So nothing can be counted twice or forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The account of KV handles; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    handed_out: AtomicU64,
    consumed: AtomicU64,
    released: AtomicU64,
    expired: AtomicU64,
}

/// A reading of the ledger. Each handle is in exactly one of the last three, or outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Handles entered since the start.
    pub handed_out: u64,
    /// Read by a decode engine.
    pub consumed: u64,
    /// Given back to the prefill engine.
    pub released: u64,
    /// Left to the engine's own lease.
    pub expired: u64,
}

impl Counts {
    /// Handles not settled yet; 0 when the sidecar is idle.
    pub fn outstanding(&self) -> u64 {
        self.handed_out - self.consumed - self.released - self.expired
    }
}

impl Ledger {
    /// An empty account.
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters a handle that a prefill has just handed out.
    pub fn hold(&self) -> Held {
        self.counters.handed_out.fetch_add(1, Ordering::Relaxed);
        Held { counters: Some(Arc::clone(&self.counters)) }
    }

    /// The counts now. While handles are being settled the four numbers may be of slightly different moments;
    /// `handed_out` is read last, so that `outstanding` never underflows.
    pub fn counts(&self) -> Counts {
        let consumed = self.counters.consumed.load(Ordering::Acquire);
        let released = self.counters.released.load(Ordering::Acquire);
        let expired = self.counters.expired.load(Ordering::Acquire);
        let handed_out = self.counters.handed_out.load(Ordering::Acquire);
        Counts { handed_out, consumed, released, expired }
    }
}

/// One outstanding KV handle. Settle it; dropping it counts as expired.
#[derive(Debug)]
#[must_use = "a handle that is dropped counts as expired"]
pub struct Held {
    /// Taken when settled.
    counters: Option<Arc<Counters>>,
}

impl Held {
    /// The decode engine has read it.
    pub fn consumed(self) {
        self.settle(|counters| &counters.consumed);
    }

    /// The prefill engine was told to free it.
    pub fn released(self) {
        self.settle(|counters| &counters.released);
    }

    /// Nobody could be told; the engine's lease will free it.
    pub fn expired(self) {
        self.settle(|counters| &counters.expired);
    }

    fn settle(mut self, count: impl Fn(&Counters) -> &AtomicU64) {
        if let Some(counters) = self.counters.take() {
            count(&counters).fetch_add(1, Ordering::Release);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counters) = self.counters.take() {
            counters.expired.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handle_ends_in_exactly_one_account() {
        let ledger = Ledger::new();
        let handles: Vec<Held> = (0..4).map(|_| ledger.hold()).collect();
        assert_eq!(ledger.counts().outstanding(), 4);
        let mut handles = handles.into_iter();
        handles.next().unwrap().consumed();
        handles.next().unwrap().released();
        handles.next().unwrap().expired();
        drop(handles.next());
        let counts = ledger.counts();
        assert_eq!(counts, Counts { handed_out: 4, consumed: 1, released: 1, expired: 2 });
        assert_eq!(counts.outstanding(), 0);
    }
}
