//! What a scrape reads elsewhere.

use std::marker::PhantomData;
use std::time::Duration;

use crate::labels::{Connection, Labels, Leg, PeerState};

/// Where the values are read that this crate does not count itself.
pub trait Source {
    /// Reads them now. Called once for each scrape, never on a request's way.
    fn reading(&self) -> Reading;
}

/// The account of KV handles, as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KvCounts {
    /// Handles entered since the start.
    pub handed_out: u64,
    /// Of those, read by a decode engine.
    pub consumed: u64,
    /// Of those, given back to the prefill engine.
    pub released: u64,
    /// Of those, left to the engine's own lease.
    pub expired: u64,
}

impl KvCounts {
    /// Handles whose account is still open.
    pub fn outstanding(&self) -> u64 {
        self.handed_out.saturating_sub(self.consumed + self.released + self.expired)
    }
}

/// Values read for one scrape.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The ledger.
    pub kv: KvCounts,
    /// Open connections to engines.
    pub upstream_connections: Values<(Leg, Connection)>,
    /// Connections to engines that were ever opened.
    pub upstream_connections_opened: Values<Leg>,
    /// Open connections of clients.
    pub client_connections: u64,
    /// Prefill engines, by what is known of them.
    pub peers: Values<PeerState>,
    /// Log lines lost because nobody read them fast enough, since the start.
    pub log_lines_dropped: u64,
    /// Spans lost because the collector did not take them fast enough, since the start.
    pub spans_dropped: u64,
    /// Since the allowlist last agreed with its origin. `None` without an allowlist, or before its first complete list.
    pub allowlist_age: Option<Duration>,
}

/// A number for each combination of labels, 0 until set.
#[derive(Debug, Clone)]
pub struct Values<L> {
    numbers: Vec<u64>,
    labels: PhantomData<L>,
}

impl<L: Labels> Values<L> {
    /// Adds to the number of these labels.
    pub fn add(&mut self, labels: L, count: u64) {
        self.numbers[labels.index()] += count;
    }

    /// The number of these labels.
    pub fn get(&self, labels: L) -> u64 {
        self.numbers[labels.index()]
    }
}

impl<L: Labels> Default for Values<L> {
    fn default() -> Self {
        Self { numbers: vec![0; L::COUNT], labels: PhantomData }
    }
}
