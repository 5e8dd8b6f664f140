//! Where a computed prompt meets the engine that wants it, whichever of the two comes first.
//!
//! Every protocol without a handle in the prefill's answer needs such a place: the two legs share only a name
//! (a room, a transfer id, a request id). What is offered stays held until it was delivered, released,
//! withdrawn or its time is up; what was lent to a reader that vanished is on offer again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::ends::{Delivery, Lent};
use super::key::Key;
use crate::pool::BlockHold;
use crate::state::LeaseState;
use crate::stats::Stats;

/// All offers of one engine.
pub(crate) struct Meetings {
    pub(super) stats: Arc<Stats>,
    runtime: Handle,
    slots: Mutex<HashMap<Key, Slot>>,
}

/// One key that somebody offers, borrows or waits for.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) offer: Option<Offer>,
    pub(super) lent: bool,
    pub(super) withdrawn: bool,
    /// A reader said that it will not come; the next offer is over at once.
    unwanted: bool,
    waiting: u32,
    pub(super) bell: Arc<Notify>,
}

pub(super) struct Offer {
    pub(super) hold: BlockHold,
    born: Instant,
    pub(super) deadline: Instant,
    pub(super) done: oneshot::Sender<()>,
    _expiry: Timer,
}

impl Slot {
    fn unused(&self) -> bool {
        self.offer.is_none() && !self.lent && !self.unwanted && self.waiting == 0
    }
}

impl Meetings {
    /// An empty table; its timers run on `runtime`.
    pub(crate) fn new(stats: Arc<Stats>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { stats, runtime, slots: Mutex::default() })
    }

    /// Puts a computed prompt on offer for at most `keep`.
    ///
    /// # Errors
    /// When the same name is on offer already: two legs that share a name would get each other's KV.
    pub(crate) fn offer(
        self: &Arc<Self>,
        key: Key,
        hold: BlockHold,
        keep: Duration,
    ) -> Result<Delivery, String> {
        let mut slots = self.slots();
        let slot = slots.entry(key.clone()).or_default();
        if slot.offer.is_some() || slot.lent {
            return Err(format!("{:?} '{}' is in use by another request", key.space, key.id));
        }
        let born = Instant::now();
        let (done, told) = oneshot::channel();
        if std::mem::take(&mut slot.unwanted) {
            drop(hold);
            self.stats.releases_without_read.inc();
            // The receiver is in this very function.
            let _ = done.send(());
            if slot.unused() {
                slots.remove(&key);
            }
            return Ok(Delivery::new(Arc::downgrade(self), key, told));
        }
        let expiry = self.runtime.spawn(expire(Arc::downgrade(self), key.clone(), born + keep));
        slot.withdrawn = false;
        let expiry = Timer(expiry.abort_handle());
        slot.offer = Some(Offer { hold, born, deadline: born + keep, done, _expiry: expiry });
        slot.bell.notify_waiters();
        Ok(Delivery::new(Arc::downgrade(self), key, told))
    }

    /// Ends the offer under `key` unread, or the next one if it is made within `patience`.
    pub(crate) fn release(self: &Arc<Self>, key: &Key, patience: Duration) {
        if let Some(lent) = self.borrow(key) {
            return lent.done(false);
        }
        self.slots().entry(key.clone()).or_default().unwanted = true;
        let (table, key) = (Arc::downgrade(self), key.clone());
        self.runtime.spawn(async move {
            sleep(patience).await;
            if let Some(table) = table.upgrade() {
                table.settle(&key, |slot| slot.unwanted = false);
            }
        });
    }

    /// Waits for an offer under `key` and borrows it. Dropping the future stops waiting.
    pub(crate) async fn take(self: &Arc<Self>, key: &Key) -> Lent {
        let waiting = Waiting::enter(self, key);
        loop {
            // Listening before looking: an offer made in between rings.
            let bell = Arc::clone(&waiting.bell);
            let mut rung = std::pin::pin!(bell.notified());
            rung.as_mut().enable();
            if let Some(lent) = self.borrow(key) {
                return lent;
            }
            rung.await;
        }
    }

    /// Borrows what is on offer now.
    fn borrow(self: &Arc<Self>, key: &Key) -> Option<Lent> {
        let mut slots = self.slots();
        let slot = slots.get_mut(key)?;
        let offer = slot.offer.take()?;
        slot.lent = true;
        Some(Lent::new(Arc::clone(self), key.clone(), offer))
    }

    /// Blocks on offer.
    pub(crate) fn blocks(&self) -> u32 {
        self.slots().values().filter_map(|slot| slot.offer.as_ref()).map(Offer::blocks).sum()
    }

    /// The offers, in the words of leases.
    pub(crate) fn list(&self) -> Vec<LeaseState> {
        let slots = self.slots();
        let offers = slots.iter().filter_map(|(key, slot)| Some((key, slot.offer.as_ref()?)));
        offers
            .map(|(key, offer)| LeaseState {
                request_id: key.id.clone(),
                blocks: offer.blocks(),
                age_ms: u64::try_from(offer.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            })
            .collect()
    }

    pub(super) fn withdraw(&self, key: &Key) {
        self.settle(key, |slot| {
            slot.withdrawn = slot.lent;
            slot.offer = None;
        });
    }

    /// Ends an offer whose time is up; a younger one under the same name stays.
    fn expire(&self, key: &Key) {
        self.settle(key, |slot| {
            if slot.offer.as_ref().is_some_and(|offer| offer.deadline <= Instant::now()) {
                slot.offer = None;
                self.stats.expired.inc();
            }
        });
    }

    pub(super) fn settle(&self, key: &Key, change: impl FnOnce(&mut Slot)) {
        let mut slots = self.slots();
        if let Some(slot) = slots.get_mut(key) {
            change(slot);
            if slot.unused() {
                slots.remove(key);
            }
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offer {
    fn blocks(&self) -> u32 {
        u32::try_from(self.hold.ids().len()).expect("a hold has at most as many blocks as the pool")
    }
}

/// A timer that ends with the offer it is for.
pub(super) struct Timer(AbortHandle);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn expire(table: Weak<Meetings>, key: Key, deadline: Instant) {
    sleep_until(deadline).await;
    // Weak, so that a sleeping timer does not keep a restarted engine's memory alive.
    if let Some(table) = table.upgrade() {
        table.expire(&key);
    }
}

/// Counts a waiting reader, so that its slot stays until it left.
struct Waiting {
    table: Arc<Meetings>,
    key: Key,
    bell: Arc<Notify>,
}

impl Waiting {
    fn enter(table: &Arc<Meetings>, key: &Key) -> Self {
        let mut slots = table.slots();
        let slot = slots.entry(key.clone()).or_default();
        slot.waiting += 1;
        Self { table: Arc::clone(table), key: key.clone(), bell: Arc::clone(&slot.bell) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.table.settle(&self.key, |slot| slot.waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::Space;
    use super::*;
    use crate::pool::BlockPool;

    fn key(id: &str) -> Key {
        Key { space: Space::Room, engine: String::new(), id: id.into() }
    }

    struct Rig {
        pool: Arc<BlockPool>,
        table: Arc<Meetings>,
    }

    impl Rig {
        fn new() -> Self {
            let stats = Arc::default();
            Self { pool: BlockPool::new(1, 1, 4), table: Meetings::new(stats, Handle::current()) }
        }

        async fn offer(&self, id: &str, keep: Duration) -> Delivery {
            self.table.offer(key(id), self.pool.take(2).await, keep).unwrap()
        }
    }

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_reader_that_came_first_gets_what_is_offered_later() {
        let rig = Rig::new();
        let table = Arc::clone(&rig.table);
        let reader = tokio::spawn(async move { table.take(&key("a")).await });
        tokio::task::yield_now().await;
        let mut delivery = rig.offer("a", LONG).await;
        let lent = reader.await.unwrap();
        assert_eq!(lent.hold().ids().len(), 2);
        lent.done(true);
        assert!(delivery.delivered().await);
        assert_eq!(rig.pool.free(), 4);
        assert!(rig.table.slots().is_empty());
    }

    #[tokio::test]
    async fn what_a_vanished_reader_held_is_on_offer_again() {
        let rig = Rig::new();
        let _delivery = rig.offer("a", LONG).await;
        drop(rig.table.take(&key("a")).await);
        assert_eq!((rig.table.blocks(), rig.table.list().len()), (2, 1));
        rig.table.take(&key("a")).await.done(false);
        assert_eq!(rig.table.stats.releases_without_read.get(), 1);
    }

    #[tokio::test]
    async fn a_withdrawn_offer_is_freed_also_when_it_was_lent() {
        let rig = Rig::new();
        drop(rig.offer("a", LONG).await);
        assert_eq!(rig.pool.free(), 4);
        let delivery = rig.offer("a", LONG).await;
        let lent = rig.table.take(&key("a")).await;
        drop(delivery);
        drop(lent);
        assert_eq!(rig.pool.free(), 4);
        assert!(rig.table.slots().is_empty());
    }

    #[tokio::test]
    async fn a_name_is_offered_once() {
        let rig = Rig::new();
        let _delivery = rig.offer("a", LONG).await;
        let hold = rig.pool.take(1).await;
        assert!(rig.table.offer(key("a"), hold, LONG).is_err());
        assert_eq!(rig.pool.free(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_ends_the_offer_that_is_or_soon_will_be() {
        let rig = Rig::new();
        let mut delivery = rig.offer("a", LONG).await;
        rig.table.release(&key("a"), SHORT);
        assert!(delivery.delivered().await);
        rig.table.release(&key("b"), SHORT);
        rig.offer("b", LONG).await.detach();
        assert_eq!((rig.pool.free(), rig.table.stats.releases_without_read.get()), (4, 2));
        rig.table.release(&key("c"), SHORT);
        tokio::time::sleep(SHORT * 2).await;
        rig.offer("c", LONG).await.detach();
        assert_eq!(rig.pool.free(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_ends_at_its_deadline() {
        let rig = Rig::new();
        let mut delivery = rig.offer("a", Duration::from_secs(30)).await;
        rig.offer("b", LONG).await.detach();
        assert!(!delivery.delivered().await);
        assert_eq!((rig.pool.free(), rig.table.stats.expired.get()), (2, 1));
    }

    #[tokio::test]
    async fn spaces_do_not_mix() {
        let rig = Rig::new();
        let _delivery = rig.offer("a", LONG).await;
        let other = Key { space: Space::Transfer, ..key("a") };
        let got = tokio::time::timeout(Duration::from_millis(5), rig.table.take(&other)).await;
        assert!(got.is_err());
        assert_eq!(rig.table.slots().len(), 1);
    }
}
