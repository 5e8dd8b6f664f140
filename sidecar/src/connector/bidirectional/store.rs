//! Offers that wait for the next turn of their chat: bounded in number and time, each used once.
//!
//! An engine that restarts holds nothing of what it offered before. Its new id shows in its first new offer, and takes all
//! of its old ones along.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;

use super::chat::Key;
use super::offer::Offer;

#[derive(Debug)]
struct Kept {
    offer: Offer,
    /// The engine of this pod that made it, by the port that leads there.
    port: u16,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Store {
    ttl: Duration,
    offers: LruCache<Key, Kept>,
    /// The life that each of this pod's engines is in.
    lives: HashMap<u16, Bytes>,
}

impl Store {
    pub(super) fn new(capacity: NonZeroUsize, ttl: Duration) -> Self {
        Self { ttl, offers: LruCache::new(capacity), lives: HashMap::new() }
    }

    /// Keeps an offer of the engine behind `port`.
    pub(super) fn put(&mut self, key: Key, offer: Offer, port: u16, now: Instant) {
        if self.lives.get(&port).is_none_or(|life| *life != offer.engine) {
            self.lives.insert(port, offer.engine.clone());
            let gone = self.offers.iter().filter(|(_, kept)| kept.port == port).map(|(key, _)| *key);
            for key in gone.collect::<Vec<_>>() {
                self.offers.pop(&key);
            }
        }
        self.offers.put(key, Kept { offer, port, until: now + self.ttl });
    }

    /// Takes the first of `keys` that is there, and drops the others: turns before the one that was found are contained in
    /// it, and a second attempt of the same request is to find nothing.
    pub(super) fn take(&mut self, keys: &[Key], now: Instant) -> Option<Offer> {
        let found = keys.iter().filter_map(|key| self.offers.pop(key)).filter(|kept| now < kept.until);
        found.reduce(|first, _| first).map(|kept| kept.offer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::offer::tests::{OFFER, read};
    use super::*;

    const TTL: Duration = Duration::from_secs(480);
    const PORT: u16 = 8000;

    fn offer(engine: &str, request: &str) -> Offer {
        read(&OFFER.replace("d-1", engine).replace("chatcmpl-1", request)).unwrap()
    }

    fn store(capacity: usize) -> (Store, Instant) {
        (Store::new(capacity.try_into().unwrap(), TTL), Instant::now())
    }

    const A: Key = [1; 32];
    const B: Key = [2; 32];

    #[test]
    fn an_offer_is_used_once() {
        let (mut store, now) = store(8);
        store.put(A, offer("e", "a"), PORT, now);
        assert_eq!(store.take(&[B, A], now), Some(offer("e", "a")));
        assert_eq!(store.take(&[B, A], now), None);
    }

    #[test]
    fn the_longest_history_wins_and_takes_the_shorter_ones_along() {
        let (mut store, now) = store(8);
        store.put(A, offer("e", "a"), PORT, now);
        store.put(B, offer("e", "b"), PORT, now);
        assert_eq!(store.take(&[B, A], now), Some(offer("e", "b")));
        assert_eq!(store.take(&[A], now), None);
    }

    #[test]
    fn an_offer_ends_with_its_time() {
        let (mut store, now) = store(8);
        store.put(A, offer("e", "a"), PORT, now);
        store.put(B, offer("e", "b"), PORT, now + TTL / 2);
        assert_eq!(store.take(&[A, B], now + TTL), Some(offer("e", "b")));
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut store, now) = store(1);
        store.put(A, offer("e", "a"), PORT, now);
        store.put(B, offer("e", "b"), PORT, now);
        assert_eq!(store.take(&[A], now), None);
        assert_eq!(store.take(&[B], now), Some(offer("e", "b")));
    }

    #[test]
    fn a_restarted_engine_takes_its_offers_along_and_no_others() {
        let (mut store, now) = store(8);
        store.put(A, offer("e", "a"), PORT, now);
        store.put(B, offer("other", "b"), PORT + 1, now);
        store.put([3; 32], offer("e-again", "c"), PORT, now);
        assert_eq!(store.take(&[A], now), None);
        assert_eq!(store.take(&[B], now), Some(offer("other", "b")));
        assert_eq!(store.take(&[[3; 32]], now), Some(offer("e-again", "c")));
    }
}
