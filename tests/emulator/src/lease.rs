//! Blocks of finished prefills that wait for their reader.
//!
//! A lease ends in exactly one of three ways: the reader's notification, its deadline, or the end of the
//! engine. Reading is possible only through a live lease and only for its own blocks, checked block by block,
//! so a reader that comes late or asks for too much is refused instead of being served someone else's KV.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::pool::{BlockHold, BlockPool};
use crate::state::LeaseState;
use crate::stats::Stats;

/// A name for a lease. As in vLLM, it is the request's id with a random tail: a client that repeats an id gets a
/// lease of its own.
pub(crate) fn name(request: &str) -> String {
    format!("{request}-{}", &Uuid::new_v4().simple().to_string()[..8])
}

/// All live leases of one engine, by the request id that was handed out.
pub(crate) struct LeaseTable {
    pool: Arc<BlockPool>,
    stats: Arc<Stats>,
    runtime: Handle,
    length: Duration,
    leases: Mutex<HashMap<String, Lease>>,
}

struct Lease {
    hold: BlockHold,
    born: Instant,
    deadline: Instant,
    read: bool,
    expiry: AbortHandle,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.expiry.abort();
    }
}

impl LeaseTable {
    /// An empty table whose leases last `length` unless prolonged.
    pub(crate) fn new(
        pool: Arc<BlockPool>,
        stats: Arc<Stats>,
        runtime: Handle,
        length: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { pool, stats, runtime, length, leases: Mutex::default() })
    }

    /// Takes over the blocks of a finished prefill.
    pub(crate) fn grant(self: &Arc<Self>, request: &str, hold: BlockHold) {
        self.grant_for(request, hold, self.length);
    }

    /// Takes over blocks under a lease of a length of its own.
    pub(crate) fn grant_for(self: &Arc<Self>, request: &str, hold: BlockHold, length: Duration) {
        let born = Instant::now();
        // Locked before the timer starts, so that the timer's first look finds the lease.
        let mut leases = self.leases();
        let expiry = self.runtime.spawn(expire(Arc::downgrade(self), request.to_owned())).abort_handle();
        let lease = Lease { hold, born, deadline: born + length, read: false, expiry };
        leases.insert(request.to_owned(), lease);
    }

    /// Whether `blocks` may be read under this request's lease.
    ///
    /// # Errors
    /// Why not, in words for the reader's log.
    pub(crate) fn admit_read(&self, request: &str, blocks: &[u32]) -> Result<(), String> {
        let mut leases = self.leases();
        let lease = leases.get_mut(request).ok_or("no such lease: released, expired or never granted")?;
        if let Some(foreign) = blocks.iter().find(|id| !lease.hold.ids().contains(id)) {
            return Err(format!("block {foreign} is not part of this lease"));
        }
        lease.prolong(self.length);
        Ok(())
    }

    /// Copies a block for the reader, or `None` when the lease ended meanwhile.
    pub(crate) fn read_block(&self, request: &str, block: u32) -> Option<Vec<u8>> {
        let mut leases = self.leases();
        let lease = leases.get_mut(request).filter(|lease| lease.hold.ids().contains(&block))?;
        lease.prolong(self.length);
        Some(self.pool.copy_block(block))
    }

    /// Notes that everything the reader asked for was sent.
    pub(crate) fn mark_read(&self, request: &str) {
        if let Some(lease) = self.leases().get_mut(request) {
            lease.read = true;
        }
    }

    /// Prolongs a lease on its reader's heartbeat.
    pub(crate) fn heartbeat(&self, request: &str) -> bool {
        self.leases().get_mut(request).map(|lease| lease.prolong(self.length)).is_some()
    }

    /// Ends a lease on its reader's notification; false when there is none.
    pub(crate) fn release(&self, request: &str) -> bool {
        let Some(lease) = self.leases().remove(request) else {
            self.stats.late_notifications.inc();
            return false;
        };
        if lease.read {
            self.stats.releases_after_read.inc();
        } else {
            self.stats.releases_without_read.inc();
        }
        true
    }

    /// Blocks held by all leases.
    pub(crate) fn blocks(&self) -> u32 {
        self.leases().values().map(Lease::blocks).sum()
    }

    /// The live leases, oldest first.
    pub(crate) fn list(&self) -> Vec<LeaseState> {
        let mut list: Vec<_> = self
            .leases()
            .iter()
            .map(|(id, lease)| LeaseState {
                request_id: id.clone(),
                blocks: lease.blocks(),
                age_ms: u64::try_from(lease.born.elapsed().as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        list.sort_by_key(|lease| std::cmp::Reverse(lease.age_ms));
        list
    }

    /// The deadline of a lease; `None` once it is gone. A passed deadline removes the lease.
    fn deadline_or_expire(&self, request: &str) -> Option<Instant> {
        let mut leases = self.leases();
        let deadline = leases.get(request)?.deadline;
        if deadline > Instant::now() {
            return Some(deadline);
        }
        leases.remove(request);
        self.stats.expired.inc();
        None
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    fn blocks(&self) -> u32 {
        u32::try_from(self.hold.ids().len()).expect("a hold has at most as many blocks as the pool")
    }

    /// vLLM's rule: activity keeps a lease for another two thirds of its length, never shortens it.
    fn prolong(&mut self, length: Duration) {
        self.deadline = self.deadline.max(Instant::now() + length * 2 / 3);
    }
}

async fn expire(table: Weak<LeaseTable>, request: String) {
    // Weak, so that a sleeping timer does not keep a restarted engine's memory alive.
    while let Some(deadline) = table.upgrade().and_then(|table| table.deadline_or_expire(&request)) {
        sleep_until(deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn table(length: Duration) -> (Arc<BlockPool>, Arc<LeaseTable>, Vec<u32>) {
        let pool = BlockPool::new(1, 1, 4);
        let table = LeaseTable::new(Arc::clone(&pool), Arc::default(), Handle::current(), length);
        let hold = pool.take(2).await;
        let ids = hold.ids().to_vec();
        table.grant("r", hold);
        (pool, table, ids)
    }

    #[tokio::test]
    async fn a_notification_frees_and_tells_read_from_unread() {
        let (pool, table, ids) = table(Duration::from_secs(30)).await;
        assert_eq!((pool.free(), table.blocks()), (2, 2));
        assert!(table.admit_read("r", &ids).is_ok());
        table.mark_read("r");
        assert!(table.release("r"));
        assert!(!table.release("r"));
        assert_eq!(pool.free(), 4);
        assert_eq!((table.stats.releases_after_read.get(), table.stats.late_notifications.get()), (1, 1));
    }

    #[tokio::test]
    async fn only_the_leased_blocks_can_be_read_and_only_while_it_lives() {
        let (_pool, table, ids) = table(Duration::from_secs(30)).await;
        assert!(table.admit_read("r", &[ids[0], 4]).unwrap_err().contains("block 4"));
        assert!(table.admit_read("other", &ids).is_err());
        assert!(table.read_block("r", ids[0]).is_some());
        table.release("r");
        assert!(table.read_block("r", ids[0]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_expires_at_its_deadline_and_a_heartbeat_moves_it() {
        let (pool, table, _ids) = table(Duration::from_secs(30)).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(table.heartbeat("r"));
        tokio::time::sleep(Duration::from_secs(19)).await;
        assert_eq!((pool.free(), table.stats.expired.get()), (2, 0));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((pool.free(), table.stats.expired.get()), (4, 1));
        assert!(!table.heartbeat("r"));
    }
}
