//! When the API server was last heard of, so that an old list can be told from a current one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What stands for "not once".
const NEVER: u64 = u64::MAX;

/// The moment of the last answer that carried information: a page, an event, a bookmark, an opened watch.
#[derive(Debug)]
pub(crate) struct Contact {
    base: Instant,
    /// Milliseconds after `base`, or [`NEVER`].
    last: AtomicU64,
}

impl Default for Contact {
    fn default() -> Self {
        Self { base: Instant::now(), last: AtomicU64::new(NEVER) }
    }
}

impl Contact {
    /// It was heard of just now.
    pub(crate) fn touch(&self) {
        let elapsed = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(NEVER - 1);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// How long ago that was; none if it never was.
    pub(crate) fn age(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed);
        (last != NEVER).then(|| self.base.elapsed().saturating_sub(Duration::from_millis(last)))
    }
}
