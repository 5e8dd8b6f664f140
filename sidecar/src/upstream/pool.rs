//! Kept connections, per engine, last used first.
//!
//! The race guarded here: an engine closes an idle connection just as we pick it. Connections are therefore kept for
//! less long than engines keep theirs ([`IDLE_LIMIT`]), and `send` tries once more on a fresh one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use kvferry_contract::Endpoint;

use super::LegBody;
use super::tally::{Mark, Tally};

/// How long a connection is kept without use. vLLM's HTTP server closes its side after 5 s.
const IDLE_LIMIT: Duration = Duration::from_secs(4);

/// How many engines have kept connections at most: more than any prefill pool, and small if every entry is forged.
const MAX_ENGINES: usize = 1024;

/// One worker's kept connections.
#[derive(Debug)]
pub struct Pool {
    idle: Mutex<HashMap<Arc<Endpoint>, Vec<Idle>>>,
    /// Per engine.
    max_idle: usize,
    tally: Tally,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<LegBody>,
    since: Instant,
    _kept: Mark,
}

impl Pool {
    /// Keeps at most `max_idle` connections to each engine.
    pub fn new(max_idle: usize, tally: Tally) -> Self {
        Self { idle: Mutex::default(), max_idle, tally }
    }

    /// A kept connection that is ready, if there is one.
    pub(super) fn take(&self, endpoint: &Arc<Endpoint>) -> Option<SendRequest<LegBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(endpoint)?;
        while let Some(entry) = kept.pop() {
            if entry.since.elapsed() > IDLE_LIMIT {
                // The last used is the youngest: all below are older still.
                kept.clear();
                return None;
            }
            if entry.sender.is_ready() {
                return Some(entry.sender);
            }
        }
        None
    }

    fn put(&self, endpoint: &Arc<Endpoint>, sender: SendRequest<LegBody>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle.contains_key(endpoint) && idle.len() >= MAX_ENGINES {
            return;
        }
        let kept = idle.entry(Arc::clone(endpoint)).or_default();
        if kept.len() < self.max_idle {
            kept.push(Idle { sender, since: Instant::now(), _kept: self.tally.keep() });
        }
    }

    /// Closes what was kept too long. Call it every second or so.
    pub fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.retain(|entry| entry.since.elapsed() <= IDLE_LIMIT && !entry.sender.is_closed());
            !kept.is_empty()
        });
    }
}

/// A connection in use. Recycled after a complete answer; dropping it closes the connection.
#[derive(Debug)]
pub struct Lease {
    pub(super) sender: SendRequest<LegBody>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) pool: Arc<Pool>,
}

impl Lease {
    /// The answer was read to its end: keep the connection for the next request.
    pub fn recycle(self) {
        if !self.sender.is_closed() {
            self.pool.put(&self.endpoint, self.sender);
        }
    }
}
