//! Which identity each prefill endpoint answered with last, and which endpoints are not to be trusted to keep one.
//!
//! The race guarded here: an engine may restart, or an address may stand for several engines. Using a wrong identity costs
//! a decode leg sent twice, never a wrong answer; an endpoint that costs it again and again is served serially for a while.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kvferry_contract::Endpoint;
use lru::LruCache;

use super::identity::Identity;

/// Endpoints remembered. No pool has so many; the least recently used goes first.
const MAX_ENDPOINTS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// What a wrong identity adds to an endpoint's score, what a right one takes away, and when it is too much. One restart
/// is forgotten after two right ones; an address with two engines behind it, right half of the time, gets there soon.
const WRONG: u8 = 2;
const RIGHT: u8 = 1;
const TOO_MUCH: u8 = 6;

/// How long such an endpoint is served serially: long enough to cost little, short enough to find out that it was mended.
const SERIAL_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
struct Entry {
    identity: Option<Identity>,
    score: u8,
    serial_until: Option<Instant>,
}

/// How to serve a request to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Both legs at once.
    Overlap(Identity),
    /// Nothing is known of it.
    Unknown,
    /// Its identity changes too often.
    SerialOnly,
}

#[derive(Debug)]
pub(super) struct Known(LruCache<Endpoint, Entry>);

impl Default for Known {
    fn default() -> Self {
        Self(LruCache::new(MAX_ENDPOINTS))
    }
}

impl Known {
    pub(super) fn choose(&mut self, endpoint: &Endpoint, now: Instant) -> Choice {
        match self.0.get(endpoint) {
            Some(Entry { serial_until: Some(until), .. }) if now < *until => Choice::SerialOnly,
            Some(Entry { identity: Some(identity), .. }) => Choice::Overlap(identity.clone()),
            _ => Choice::Unknown,
        }
    }

    /// It answered with this identity.
    pub(super) fn learn(&mut self, endpoint: &Endpoint, identity: Identity) {
        self.0.get_or_insert_mut(endpoint.clone(), Entry::default).identity = Some(identity);
    }

    /// The identity that was used was right.
    pub(super) fn right(&mut self, endpoint: &Endpoint) {
        if let Some(entry) = self.0.peek_mut(endpoint) {
            entry.score = entry.score.saturating_sub(RIGHT);
        }
    }

    /// The identity that was used was wrong; it answered with `instead`, if with any. Whether that was once too often.
    pub(super) fn wrong(&mut self, endpoint: &Endpoint, instead: Option<Identity>, now: Instant) -> bool {
        let entry = self.0.get_or_insert_mut(endpoint.clone(), Entry::default);
        entry.identity = instead;
        entry.score += WRONG;
        if entry.score < TOO_MUCH {
            return false;
        }
        entry.score = 0;
        entry.serial_until = Some(now + SERIAL_FOR);
        true
    }

    /// Something went wrong there. Whether an identity was known.
    pub(super) fn forget(&mut self, endpoint: &Endpoint) -> bool {
        self.0.peek_mut(endpoint).is_some_and(|entry| entry.identity.take().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::tests::engine;
    use super::*;

    fn endpoint() -> Endpoint {
        "10.0.0.5:8000".parse().unwrap()
    }

    fn learned() -> (Known, Instant) {
        let mut known = Known::default();
        known.learn(&endpoint(), engine("one"));
        (known, Instant::now())
    }

    #[test]
    fn an_identity_is_known_from_the_first_answer_until_something_fails() {
        let (mut known, now) = learned();
        assert_eq!(known.choose(&"10.0.0.5:8001".parse().unwrap(), now), Choice::Unknown);
        assert_eq!(known.choose(&endpoint(), now), Choice::Overlap(engine("one")));
        assert!(known.forget(&endpoint()));
        assert!(!known.forget(&endpoint()), "there was nothing left to drop");
        assert_eq!(known.choose(&endpoint(), now), Choice::Unknown);
        known.learn(&endpoint(), engine("two"));
        assert_eq!(known.choose(&endpoint(), now), Choice::Overlap(engine("two")));
    }

    #[test]
    fn a_restart_is_no_reason_to_distrust_an_endpoint() {
        let (mut known, now) = learned();
        for restart in 0..50 {
            let next = engine(&restart.to_string());
            assert!(!known.wrong(&endpoint(), Some(next.clone()), now));
            assert_eq!(known.choose(&endpoint(), now), Choice::Overlap(next));
            known.right(&endpoint());
            known.right(&endpoint());
        }
    }

    #[test]
    fn an_endpoint_that_is_wrong_half_of_the_time_is_served_serially_for_a_while() {
        let (mut known, now) = learned();
        let mut marked = false;
        for _ in 0..4 {
            marked |= known.wrong(&endpoint(), Some(engine("two")), now);
            known.right(&endpoint());
        }
        assert!(!marked);
        marked |= known.wrong(&endpoint(), Some(engine("one")), now);
        assert!(marked);
        known.learn(&endpoint(), engine("two"));
        assert_eq!(known.choose(&endpoint(), now), Choice::SerialOnly);
        assert_eq!(known.choose(&endpoint(), now + SERIAL_FOR), Choice::Overlap(engine("two")));
    }

    #[test]
    fn an_answer_without_identity_leaves_none() {
        let (mut known, now) = learned();
        known.wrong(&endpoint(), None, now);
        assert_eq!(known.choose(&endpoint(), now), Choice::Unknown);
    }

    #[test]
    fn the_least_recently_used_endpoint_makes_room() {
        let (mut known, now) = learned();
        for n in 0..MAX_ENDPOINTS.get() {
            known.learn(&format!("host-{n}:1").parse().unwrap(), engine("x"));
        }
        assert_eq!(known.choose(&endpoint(), now), Choice::Unknown);
        assert_eq!(known.0.len(), MAX_ENDPOINTS.get());
    }
}
