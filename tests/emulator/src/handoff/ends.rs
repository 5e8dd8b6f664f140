//! The two ends of a meeting: the engine that offers, and the reader that borrows.
//!
//! Both clean up behind themselves: an offering side that goes withdraws its offer, a reader that goes gives back
//! what it borrowed.

use std::sync::{Arc, Weak};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::key::Key;
use super::table::{Meetings, Offer};
use crate::pool::BlockHold;

/// The offering side's end of a meeting. Dropping it withdraws the offer.
pub(crate) struct Delivery {
    table: Weak<Meetings>,
    key: Option<Key>,
    told: oneshot::Receiver<()>,
}

impl Delivery {
    /// The end of a new offer.
    pub(super) fn new(table: Weak<Meetings>, key: Key, told: oneshot::Receiver<()>) -> Self {
        Self { table, key: Some(key), told }
    }

    /// Leaves the offer to its reader and its deadline.
    pub(crate) fn detach(mut self) {
        self.key = None;
    }

    /// Waits for the end of the offer; false when its time was up first.
    pub(crate) async fn delivered(&mut self) -> bool {
        (&mut self.told).await.is_ok()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let (Some(key), Some(table)) = (&self.key, self.table.upgrade())
            // An offer that ended by itself may have a successor of the same name, which is not ours.
            && self.told.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        {
            table.withdraw(key);
        }
    }
}

/// An offer in the hands of one reader.
pub(crate) struct Lent {
    table: Arc<Meetings>,
    key: Key,
    offer: Option<Offer>,
}

impl Lent {
    /// An offer just taken from its slot.
    pub(super) fn new(table: Arc<Meetings>, key: Key, offer: Offer) -> Self {
        Self { table, key, offer: Some(offer) }
    }

    /// The blocks.
    pub(crate) fn hold(&self) -> &BlockHold {
        &self.offer.as_ref().expect("an offer leaves only by value or drop").hold
    }

    /// The reader has everything it wanted (`read`), or wants nothing: the offer is over.
    pub(crate) fn done(mut self, read: bool) {
        let stats = &self.table.stats;
        if read {
            stats.releases_after_read.inc();
        } else {
            stats.releases_without_read.inc();
        }
        if let Some(Offer { hold, done, .. }) = self.offer.take() {
            // Freed before the other leg hears of it: who sees its answer also sees the blocks free.
            drop(hold);
            let _ = done.send(());
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let offer = self.offer.take();
        let stats = &self.table.stats;
        self.table.settle(&self.key, |slot| {
            slot.lent = false;
            let Some(offer) = offer.filter(|_| !slot.withdrawn) else {
                return;
            };
            if offer.deadline <= Instant::now() {
                stats.expired.inc();
                return;
            }
            slot.offer = Some(offer);
            slot.bell.notify_waiters();
        });
    }
}
