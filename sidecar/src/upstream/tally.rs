//! How many connections to engines there are: counted where they open, are kept and close, so that who reads the numbers
//! disturbs no worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The connections of one kind of leg, of all workers. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    open: AtomicU64,
    idle: AtomicU64,
}

impl Tally {
    /// Ever opened.
    pub fn opened(&self) -> u64 {
        self.0.opened.load(Ordering::Relaxed)
    }

    /// Open now, and kept for the next exchange. One that its engine has just closed may still be among them.
    pub fn idle(&self) -> u64 {
        self.0.idle.load(Ordering::Relaxed)
    }

    /// Open now, and carrying an exchange.
    pub fn in_use(&self) -> u64 {
        self.0.open.load(Ordering::Relaxed).saturating_sub(self.idle())
    }

    /// A connection opens. It is open until the mark is dropped.
    pub(super) fn open(&self) -> Mark {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
        Mark::new(self, |counts| &counts.open)
    }

    /// A connection is kept until the mark is dropped.
    pub(super) fn keep(&self) -> Mark {
        Mark::new(self, |counts| &counts.idle)
    }
}

/// Counts as one until dropped.
#[derive(Debug)]
pub(super) struct Mark {
    tally: Tally,
    of: fn(&Counts) -> &AtomicU64,
}

impl Mark {
    fn new(tally: &Tally, of: fn(&Counts) -> &AtomicU64) -> Self {
        of(&tally.0).fetch_add(1, Ordering::Relaxed);
        Self { tally: tally.clone(), of }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        (self.of)(&self.tally.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The tallies that operators see.
#[derive(Debug, Clone, Default)]
pub struct Tallies {
    /// To prefill engines.
    pub prefill: Tally,
    /// To the decode engines of this pod.
    pub decode: Tally,
    /// To encoders.
    pub encode: Tally,
}
