//! Prefill engines that refuse connections are put aside for a while, and then tried again.
//!
//! Being aside only matters where there is a choice: a request whose only candidate is aside still goes there, since an
//! attempt costs less than a failure that need not have been.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::time::Time;

/// Engines remembered at most. More than any prefill pool has; when it is full of failing ones, no more are added.
const MAX_ENGINES: usize = 1024;

/// What is known of engines that failed. Those that work are not remembered at all.
#[derive(Debug)]
pub struct Breaker<K> {
    failures: NonZeroU32,
    pause: Duration,
    failing: HashMap<K, Failing>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    /// In a row.
    failures: u32,
    aside_until: Option<Time>,
}

impl<K: Eq + Hash + Clone> Breaker<K> {
    /// After `failures` failures in a row an engine is aside for `pause`.
    pub fn new(failures: NonZeroU32, pause: Duration) -> Self {
        Self { failures, pause, failing: HashMap::new() }
    }

    /// It could not be reached. True if that puts it aside now.
    pub fn failed(&mut self, engine: &K, now: Time) -> bool {
        if !self.failing.contains_key(engine) && self.failing.len() >= MAX_ENGINES {
            self.failing.retain(|_, failing| failing.aside_until.is_some_and(|until| now < until));
            if self.failing.len() >= MAX_ENGINES {
                return false;
            }
        }
        let new = Failing { failures: 0, aside_until: None };
        let failing = self.failing.entry(engine.clone()).or_insert(new);
        failing.failures = failing.failures.saturating_add(1);
        if failing.failures < self.failures.get() {
            return false;
        }
        let was_aside = failing.aside_until.is_some_and(|until| now < until);
        failing.aside_until = Some(now + self.pause);
        !was_aside
    }

    /// It answered, whatever it said.
    pub fn answered(&mut self, engine: &K) {
        self.failing.remove(engine);
    }

    /// Whether it is aside. Once its pause is over, one caller is told no and tries it; the others wait for another pause,
    /// or until it has answered.
    pub fn is_aside(&mut self, engine: &K, now: Time) -> bool {
        let Some(failing) = self.failing.get_mut(engine) else { return false };
        let Some(until) = failing.aside_until else { return false };
        if now < until {
            return true;
        }
        failing.aside_until = Some(now + self.pause);
        false
    }

    /// Whether nothing is known of any failure: the usual case, worth a short way.
    pub fn is_clear(&self) -> bool {
        self.failing.is_empty()
    }

    /// Engines that are aside.
    pub fn aside(&self, now: Time) -> usize {
        self.failing.values().filter(|failing| failing.aside_until.is_some_and(|until| now < until)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Time {
        Time::since_start(Duration::from_secs(secs))
    }

    fn breaker() -> Breaker<&'static str> {
        Breaker::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(10))
    }

    #[test]
    fn failures_in_a_row_put_an_engine_aside_and_an_answer_brings_it_back() {
        let mut breaker = breaker();
        assert!(!breaker.failed(&"a", at(0)) && !breaker.failed(&"a", at(0)));
        assert!(!breaker.is_aside(&"a", at(0)));
        assert!(breaker.failed(&"a", at(1)));
        assert!(breaker.is_aside(&"a", at(2)));
        assert!(!breaker.is_aside(&"b", at(2)));
        assert_eq!(breaker.aside(at(2)), 1);
        breaker.answered(&"a");
        assert!(!breaker.is_aside(&"a", at(2)) && breaker.is_clear());
    }

    #[test]
    fn an_answer_in_between_starts_the_count_anew() {
        let mut breaker = breaker();
        for _ in 0..5 {
            breaker.failed(&"a", at(0));
            breaker.failed(&"a", at(0));
            breaker.answered(&"a");
        }
        assert!(!breaker.is_aside(&"a", at(0)));
    }

    #[test]
    fn after_the_pause_one_request_tries_it_and_the_others_wait() {
        let mut breaker = breaker();
        let put_aside = [0; 3].map(|_| breaker.failed(&"a", at(0)));
        assert_eq!(put_aside, [false, false, true]);
        assert!(breaker.is_aside(&"a", at(9)));
        assert!(!breaker.is_aside(&"a", at(10)), "the one that tries");
        assert!(breaker.is_aside(&"a", at(11)), "the others");
        assert!(!breaker.failed(&"a", at(12)), "it was aside already");
        assert!(breaker.is_aside(&"a", at(21)));
    }

    #[test]
    fn it_remembers_a_bounded_number_of_engines() {
        let mut breaker = Breaker::new(NonZeroU32::MIN, Duration::from_secs(10));
        for engine in 0..2 * MAX_ENGINES {
            breaker.failed(&engine, at(0));
        }
        assert_eq!(breaker.aside(at(1)), MAX_ENGINES);
        breaker.failed(&usize::MAX, at(20));
        assert_eq!(breaker.aside(at(21)), 1);
    }
}
