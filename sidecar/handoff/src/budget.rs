//! How many prefills the decode engine may compute by itself: a share of all requests, and a small rate in any case.
//!
//! Without a bound a prefill pool that fails would move its whole load to the decode engines, and take them down too. The
//! rule is that of retry budgets: each request deposits a share of a local prefill, each local prefill withdraws one.

use std::time::Duration;

use crate::time::Time;

/// Deposits are worth something for so long: the bucket holds what this many seconds bring at most.
const WINDOW: Duration = Duration::from_secs(10);

/// A bucket of local prefills.
#[derive(Debug)]
pub struct Budget {
    /// Local prefills per request.
    ratio: f64,
    /// Local prefills per second that are granted in any case.
    rate: f64,
    /// Local prefills to be had now.
    balance: f64,
    /// What the bucket holds at most from `rate` alone.
    floor_cap: f64,
    updated: Time,
}

impl Budget {
    /// A full bucket. `ratio` and `rate` are not negative.
    pub fn new(ratio: f64, rate: f64, now: Time) -> Self {
        let floor_cap = (rate * WINDOW.as_secs_f64()).max(1.0);
        let balance = if rate > 0.0 { floor_cap } else { 0.0 };
        Self { ratio, rate, balance, floor_cap, updated: now }
    }

    /// A request came.
    pub fn deposit(&mut self, now: Time) {
        self.refill(now);
        // What many requests deposit may exceed what the rate alone brings, but no more than a window of them is kept.
        let cap = self.floor_cap.max(self.ratio * 1000.0 * WINDOW.as_secs_f64());
        self.balance = (self.balance + self.ratio).min(cap);
    }

    /// Takes one local prefill out, if there is one.
    pub fn withdraw(&mut self, now: Time) -> bool {
        self.refill(now);
        let granted = self.balance >= 1.0;
        if granted {
            self.balance -= 1.0;
        }
        granted
    }

    fn refill(&mut self, now: Time) {
        let elapsed = now.elapsed().saturating_sub(self.updated.elapsed());
        self.updated = self.updated.max(now);
        if self.balance < self.floor_cap {
            self.balance = (self.balance + self.rate * elapsed.as_secs_f64()).min(self.floor_cap);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::since_start(Duration::from_millis(ms))
    }

    #[test]
    fn a_share_of_all_requests_is_granted() {
        let mut budget = Budget::new(0.2, 0.0, at(0));
        assert!(!budget.withdraw(at(0)));
        let granted = (0..1000)
            .filter(|_| {
                budget.deposit(at(1));
                budget.withdraw(at(1))
            })
            .count();
        assert!((199..=200).contains(&granted), "{granted}");
    }

    #[test]
    fn a_rate_is_granted_in_any_case_and_does_not_pile_up_for_ever() {
        let mut budget = Budget::new(0.0, 10.0, at(0));
        let drain = |budget: &mut Budget, ms| (0..10_000).filter(|_| budget.withdraw(at(ms))).count();
        assert_eq!(drain(&mut budget, 0), 100);
        assert_eq!(drain(&mut budget, 1000), 10);
        assert_eq!(drain(&mut budget, 1_000_000), 100);
    }

    #[test]
    fn time_that_goes_back_brings_nothing() {
        let mut budget = Budget::new(0.0, 1.0, at(5000));
        while budget.withdraw(at(5000)) {}
        assert!(!budget.withdraw(at(1000)));
        assert!(!budget.withdraw(at(5500)));
        assert!(budget.withdraw(at(6000)));
    }
}
