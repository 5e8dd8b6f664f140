//! Real KV bytes of the prompt blocks this engine had lately: what another engine may pull as a cached prefix.
//!
//! It stands for the host-memory tier of an offloading engine. Only full blocks are kept, by the name of the
//! prefix they end, so that equal prompts find each other's blocks and different ones cannot.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes kept. Enough for the prompts of a test; small beside the block pool of a busy engine.
const KEPT_BYTES: usize = 16 << 20;

/// Most bytes kept of one prompt: its start is what others can use, and must not be driven out by its own end.
const PROMPT_BYTES: usize = KEPT_BYTES / 4;

/// A bounded map from block name to bytes, oldest out first.
#[derive(Default)]
pub(crate) struct HostCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    blocks: HashMap<u64, Arc<[u8]>>,
    order: VecDeque<u64>,
    bytes: usize,
}

impl HostCache {
    /// Keeps the first blocks of a prompt; `bytes` makes the copy of the block at an index, asked only for new ones.
    pub(crate) fn keep(&self, names: &[u64], mut bytes: impl FnMut(usize) -> Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut added = 0;
        for (index, name) in names.iter().enumerate() {
            if kept.blocks.contains_key(name) {
                continue;
            }
            let block: Arc<[u8]> = bytes(index).into();
            kept.bytes += block.len();
            added += block.len();
            kept.blocks.insert(*name, block);
            kept.order.push_back(*name);
            if kept.bytes > KEPT_BYTES {
                kept.drop_oldest();
            }
            if added >= PROMPT_BYTES {
                return;
            }
        }
    }

    /// The blocks of the longest known run from the start of a prompt.
    pub(crate) fn leading(&self, names: &[u64]) -> Vec<Arc<[u8]>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().map_while(|name| kept.blocks.get(name).cloned()).collect()
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        if let Some(block) = self.order.pop_front().and_then(|oldest| self.blocks.remove(&oldest)) {
            self.bytes -= block.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_run_from_the_start_is_found() {
        let cache = HostCache::default();
        cache.keep(&[1, 2], |index| vec![u8::try_from(index).unwrap(); 4]);
        cache.keep(&[1, 2, 4], |index| vec![u8::try_from(index).unwrap() + 10; 4]);
        let found = cache.leading(&[1, 2, 3, 4]);
        assert_eq!(found.iter().map(|block| block[0]).collect::<Vec<_>>(), [0, 1]);
        assert!(cache.leading(&[3, 1]).is_empty());
    }

    #[test]
    fn the_oldest_blocks_leave_when_it_is_full() {
        let cache = HostCache::default();
        for first in (0..20).step_by(4) {
            let names: Vec<u64> = (first..first + 10).collect();
            cache.keep(&names, |_| vec![0; 1 << 20]);
        }
        assert!(cache.leading(&[0]).is_empty());
        assert_eq!(cache.leading(&[16, 17, 18, 19, 20]).len(), 4, "the start of the last prompt");
    }
}
