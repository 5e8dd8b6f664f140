//! Which prompt blocks this engine has seen lately: the source of `cached_tokens`.
//!
//! Only names of prefixes are kept, never KV: the cache shortens the pretended prefill time and feeds the
//! usage numbers, while every request still computes or pulls all its bytes, so that tests can count them.

use std::collections::{HashSet, VecDeque};

/// Most block names remembered. 64 Ki names are 1 Mi tokens at 16 tokens a block, and about 2 MiB.
const REMEMBERED: usize = 65_536;

/// A bounded set of block names, oldest out first.
#[derive(Default)]
pub(crate) struct PrefixCache {
    names: HashSet<u64>,
    order: VecDeque<u64>,
}

impl PrefixCache {
    /// How many leading blocks of a prompt are known.
    pub(crate) fn leading_hits(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|name| self.names.contains(name)).count()
    }

    /// Remembers a prompt's full blocks.
    pub(crate) fn remember(&mut self, blocks: &[u64]) {
        for name in blocks {
            if self.names.insert(*name) {
                self.order.push_back(*name);
            }
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.names.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_run_from_the_start_counts() {
        let mut cache = PrefixCache::default();
        cache.remember(&[1, 2, 4]);
        assert_eq!(cache.leading_hits(&[1, 2, 3, 4]), 2);
        assert_eq!(cache.leading_hits(&[3, 1, 2]), 0);
    }

    #[test]
    fn the_oldest_names_leave_when_the_cache_is_full() {
        let mut cache = PrefixCache::default();
        let names: Vec<u64> = (0..=REMEMBERED as u64).collect();
        cache.remember(&names);
        assert_eq!(cache.leading_hits(&[0]), 0);
        assert_eq!(cache.leading_hits(&[1]), 1);
        assert_eq!(cache.names.len(), REMEMBERED);
    }
}
