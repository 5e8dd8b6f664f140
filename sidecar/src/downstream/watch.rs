//! Ends connections that only cost: a head that never completes, a client that went silent between requests.
//!
//! A timer per request would be paid by every request for the sake of the few bad ones. Instead each connection notes in
//! a few atomics what it is doing since when, and one sweep a second looks at them all.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How long a request's head may take (spec/sidecar.md 5).
const HEAD_LIMIT: Duration = Duration::from_secs(30);

/// How long a connection may be idle between requests (spec/sidecar.md 5).
const IDLE_LIMIT: Duration = Duration::from_secs(300);

/// The connections of one worker.
#[derive(Debug)]
pub struct Watchdog {
    start: Instant,
    connections: Mutex<HashMap<u64, Arc<Activity>>>,
    serial: AtomicU64,
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    start: Instant,
    /// Requests being served.
    active: AtomicU32,
    /// Milliseconds after `start` at which it became idle.
    idle_since: AtomicU64,
    /// Whether bytes came since then: a request's head has begun.
    heard: AtomicBool,
    /// HTTP/2: bytes between requests are no heads, but pings and the like.
    framed: AtomicBool,
    end: CancellationToken,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { start: Instant::now(), connections: Mutex::default(), serial: AtomicU64::new(0) }
    }
}

impl Watchdog {
    pub(super) fn watch(self: &Arc<Self>) -> Watched {
        let activity = Arc::new(Activity {
            start: self.start,
            active: AtomicU32::new(0),
            idle_since: AtomicU64::new(millis(self.start.elapsed())),
            // Who connects without saying anything gets the shorter limit.
            heard: AtomicBool::new(true),
            framed: AtomicBool::new(false),
            end: CancellationToken::new(),
        });
        let key = self.serial.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(key, Arc::clone(&activity));
        Watched { dog: Arc::clone(self), key, activity }
    }

    /// Ends what is over its limit. Call it every second.
    pub fn sweep(&self) {
        let now = self.start.elapsed();
        for activity in self.lock().values() {
            if activity.is_late(now) {
                activity.end.cancel();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    fn is_late(&self, now: Duration) -> bool {
        if self.active.load(Ordering::Relaxed) > 0 {
            return false;
        }
        let head = self.heard.load(Ordering::Relaxed) && !self.framed.load(Ordering::Relaxed);
        let limit = if head { HEAD_LIMIT } else { IDLE_LIMIT };
        now.saturating_sub(Duration::from_millis(self.idle_since.load(Ordering::Relaxed))) > limit
    }

    /// Bytes came from the client.
    pub(super) fn heard(&self) {
        if self.active.load(Ordering::Relaxed) == 0 && !self.heard.swap(true, Ordering::Relaxed) {
            self.idle_since.store(millis(self.start.elapsed()), Ordering::Relaxed);
        }
    }

    /// The connection speaks HTTP/2.
    pub(super) fn is_framed(&self) {
        self.framed.store(true, Ordering::Relaxed);
    }

    pub(super) fn begin(self: &Arc<Self>) -> Serving {
        self.active.fetch_add(1, Ordering::Relaxed);
        Serving(Arc::clone(self))
    }
}

/// A connection under watch until dropped.
pub(super) struct Watched {
    dog: Arc<Watchdog>,
    key: u64,
    pub(super) activity: Arc<Activity>,
}

impl Watched {
    /// Completes when the connection is to end.
    pub(super) fn end(&self) -> CancellationToken {
        self.activity.end.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dog.lock().remove(&self.key);
    }
}

/// A request being served, until its answer is complete or given up.
pub(super) struct Serving(Arc<Activity>);

impl Drop for Serving {
    fn drop(&mut self) {
        let activity = &self.0;
        activity.idle_since.store(millis(activity.start.elapsed()), Ordering::Relaxed);
        activity.heard.store(false, Ordering::Relaxed);
        activity.active.fetch_sub(1, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late_after(activity: &Activity, seconds: u64) -> bool {
        activity.is_late(Duration::from_secs(seconds))
    }

    #[test]
    fn silence_and_slow_heads_have_limits_and_work_has_none() {
        let watched = Arc::new(Watchdog::default()).watch();
        let activity = &watched.activity;
        assert!(!late_after(activity, 29) && late_after(activity, 31), "connected, but said nothing");
        let serving = activity.begin();
        assert!(!late_after(activity, 100_000), "a request may take as long as it takes");
        drop(serving);
        assert!(!late_after(activity, 299) && late_after(activity, 302), "idle between requests");
        activity.heard();
        assert!(late_after(activity, 32), "the next head has begun");
        activity.is_framed();
        assert!(!late_after(activity, 299), "pings of HTTP/2 are no heads");
    }

    #[test]
    fn a_sweep_ends_only_what_is_late() {
        let dog = Arc::new(Watchdog::default());
        let (kept, dropped) = (dog.watch(), dog.watch());
        dog.sweep();
        assert!(!kept.end().is_cancelled());
        drop(dropped);
        assert_eq!(dog.lock().len(), 1);
    }
}
