//! The engine's KV memory: numbered blocks, taken and given back.
//!
//! It guards two things. A freed block is overwritten at once, so whoever reads it late reads something that is
//! visibly not KV. And a block is held by exactly one [`BlockHold`], whose drop gives it back, so a request that
//! vanishes at any `await` cannot strand memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a freed block is filled with.
pub(crate) const POISON: u8 = 0xDB;

/// The blocks. Ids run from 1 to `capacity`; 0 stays unused, as vLLM keeps its null block there.
pub(crate) struct BlockPool {
    block_tokens: usize,
    token_bytes: usize,
    capacity: u32,
    /// One permit per free block; its queue is first come, first served.
    free_permits: Arc<Semaphore>,
    memory: Mutex<Memory>,
}

struct Memory {
    /// Grown on demand: an engine that never wrote block 900 never paid for it.
    blocks: Vec<Option<Box<[u8]>>>,
    /// Given back most recently, taken first: keeps the resident set small.
    freed: Vec<u32>,
    /// Ids from here on were never taken.
    fresh: u32,
}

impl BlockPool {
    /// An empty pool; sizes as in [`crate::Config`].
    pub(crate) fn new(block_tokens: u32, token_bytes: u32, capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            block_tokens: block_tokens as usize,
            token_bytes: token_bytes as usize,
            capacity,
            free_permits: Arc::new(Semaphore::new(capacity as usize)),
            memory: Mutex::new(Memory { blocks: Vec::new(), freed: Vec::new(), fresh: 1 }),
        })
    }

    /// Blocks that `tokens` tokens need.
    pub(crate) fn blocks_for(&self, tokens: usize) -> u32 {
        u32::try_from(tokens.div_ceil(self.block_tokens)).unwrap_or(u32::MAX)
    }

    /// All blocks.
    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Blocks that nobody holds.
    pub(crate) fn free(&self) -> u32 {
        u32::try_from(self.free_permits.available_permits()).expect("never more permits than the capacity")
    }

    /// Bytes of one block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.block_tokens * self.token_bytes
    }

    /// Waits until `count` blocks are free and takes them. Dropping the future leaves the queue.
    pub(crate) async fn take(self: &Arc<Self>, count: u32) -> BlockHold {
        let permit = Arc::clone(&self.free_permits)
            .acquire_many_owned(count)
            .await
            .expect("the pool never closes its semaphore");
        let mut memory = self.memory();
        let ids = (0..count)
            .map(|_| {
                memory.freed.pop().unwrap_or_else(|| {
                    memory.fresh += 1;
                    memory.fresh - 1
                })
            })
            .collect();
        drop(memory);
        BlockHold { pool: Arc::clone(self), ids, permit }
    }

    /// A copy of a block as it is now, for a reader elsewhere. A block never written reads as poison.
    pub(crate) fn copy_block(&self, id: u32) -> Vec<u8> {
        match self.memory().blocks.get(id as usize) {
            Some(Some(block)) => block.to_vec(),
            _ => vec![POISON; self.block_bytes()],
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic elsewhere cannot leave the lists half changed: every change under the lock is one push or pop.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, ids: &[u32]) {
        let mut memory = self.memory();
        for id in ids {
            if let Some(Some(block)) = memory.blocks.get_mut(*id as usize) {
                block.fill(POISON);
            }
            memory.freed.push(*id);
        }
    }
}

impl Memory {
    fn block(&mut self, id: u32, bytes: usize) -> &mut [u8] {
        let at = id as usize;
        if self.blocks.len() <= at {
            self.blocks.resize_with(at + 1, || None);
        }
        self.blocks[at].get_or_insert_with(|| vec![POISON; bytes].into_boxed_slice())
    }
}

/// Blocks held by one request or one lease, in the order of the sequence.
pub(crate) struct BlockHold {
    pool: Arc<BlockPool>,
    ids: Vec<u32>,
    permit: OwnedSemaphorePermit,
}

impl BlockHold {
    /// The block ids, in sequence order.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Gives back all but the first `keep` blocks.
    pub(crate) fn truncate(&mut self, keep: u32) {
        let extra = self.ids.split_off((keep as usize).min(self.ids.len()));
        if extra.is_empty() {
            return;
        }
        self.pool.give_back(&extra);
        drop(self.permit.split(extra.len()));
    }

    /// Moves the blocks out; this hold stays behind empty.
    pub(crate) fn take(&mut self) -> Self {
        let count = self.permit.num_permits();
        let permit = self.permit.split(count).expect("a permit holds as many as it says");
        Self { pool: Arc::clone(&self.pool), ids: std::mem::take(&mut self.ids), permit }
    }

    /// A copy of the `index`th block as it is now.
    pub(crate) fn copy_block(&self, index: usize) -> Vec<u8> {
        self.pool.copy_block(self.ids[index])
    }

    /// Lets `fill` write the KV of the token at `position`.
    pub(crate) fn write_token(&mut self, position: usize, fill: impl FnOnce(&mut [u8])) {
        let (block, range) = self.place(position);
        let bytes = self.pool.block_bytes();
        fill(&mut self.pool.memory().block(block, bytes)[range]);
    }

    /// Shows `look` the KV bytes of the token at `position`, as they are in memory now.
    pub(crate) fn read_token<T>(&self, position: usize, look: impl FnOnce(&[u8]) -> T) -> T {
        let (block, range) = self.place(position);
        let bytes = self.pool.block_bytes();
        look(&self.pool.memory().block(block, bytes)[range])
    }

    /// Overwrites the `index`th block of this hold.
    pub(crate) fn write_block(&mut self, index: usize, kv: &[u8]) {
        let bytes = self.pool.block_bytes();
        self.pool.memory().block(self.ids[index], bytes).copy_from_slice(kv);
    }

    fn place(&self, position: usize) -> (u32, std::ops::Range<usize>) {
        let BlockPool { block_tokens, token_bytes, .. } = *self.pool;
        let start = position % block_tokens * token_bytes;
        (self.ids[position / block_tokens], start..start + token_bytes)
    }
}

impl Drop for BlockHold {
    fn drop(&mut self) {
        // The ids go back before the permits (a field, dropped after this), so a permit always finds an id.
        self.pool.give_back(&self.ids);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn written_tokens_read_back_across_blocks() {
        let pool = BlockPool::new(2, 3, 4);
        let mut hold = pool.take(2).await;
        for position in 0..4u8 {
            hold.write_token(usize::from(position), |kv| kv.fill(position));
        }
        for position in 0..4u8 {
            assert_eq!(hold.read_token(usize::from(position), <[u8]>::to_vec), [position; 3]);
        }
        assert_eq!(pool.copy_block(hold.ids()[1]), [2, 2, 2, 3, 3, 3]);
    }

    #[tokio::test]
    async fn freed_blocks_are_poisoned_and_counted_free() {
        let pool = BlockPool::new(2, 2, 3);
        let mut hold = pool.take(2).await;
        hold.write_token(0, |kv| kv.fill(7));
        let id = hold.ids()[0];
        assert_eq!(pool.free(), 1);
        drop(hold);
        assert_eq!(pool.free(), 3);
        assert_eq!(pool.copy_block(id), [POISON; 4]);
    }

    #[tokio::test]
    async fn truncating_gives_the_tail_back() {
        let pool = BlockPool::new(1, 1, 3);
        let mut hold = pool.take(3).await;
        hold.truncate(1);
        assert_eq!((pool.free(), hold.ids().len()), (2, 1));
        drop(hold);
        assert_eq!(pool.free(), 3);
    }

    #[tokio::test]
    async fn blocks_moved_out_are_held_once() {
        let pool = BlockPool::new(1, 1, 3);
        let mut hold = pool.take(2).await;
        let moved = hold.take();
        drop(hold);
        assert_eq!((pool.free(), moved.ids().len()), (1, 2));
        drop(moved);
        assert_eq!(pool.free(), 3);
    }

    #[tokio::test]
    async fn a_request_waits_for_blocks_and_a_dropped_one_leaves_the_queue() {
        let pool = BlockPool::new(1, 1, 2);
        let all = pool.take(2).await;
        let gone = tokio::time::timeout(Duration::from_millis(5), pool.take(2)).await;
        assert!(gone.is_err());
        drop(all);
        assert_eq!(pool.take(2).await.ids().len(), 2);
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn untouched_blocks_cost_no_memory() {
        let pool = BlockPool::new(16, 4096, 1 << 20);
        assert!(pool.memory().blocks.is_empty());
        assert_eq!(pool.blocks_for(17), 2);
    }
}
