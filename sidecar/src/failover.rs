//! What a request may do when its prefill fails, as the operator allows it: attempts at the same engine, other
//! candidates, local prefill within a budget; and which engines are put aside for a while.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvferry_contract::Endpoint;
use kvferry_handoff::{Breaker, Budget, Recovery, Time};

/// What follows a failed prefill (`--prefill-failure-policy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The client is told.
    #[default]
    Fail,
    /// The other candidates of the list are tried.
    RetryOther,
    /// Like `RetryOther`, and then the decode engine computes the prompt itself, within a budget.
    Local,
}

/// The rules, and what is shared by all requests that follow them.
#[derive(Debug)]
pub struct Failover {
    policy: Policy,
    /// Further attempts at the same engine.
    retries: u32,
    /// Pause before each.
    pause: Duration,
    budget: Mutex<Budget>,
    breaker: Option<Mutex<Breaker<Arc<Endpoint>>>>,
    /// Set while the breaker remembers any failure; nobody takes its lock otherwise.
    trouble: AtomicBool,
}

/// The flags behind it.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// `--prefill-failure-policy`
    pub policy: Policy,
    /// `--prefill-max-retries`
    pub retries: u32,
    /// `--prefill-retry-backoff`
    pub pause: Duration,
    /// `--prefill-local-ratio`
    pub local_ratio: f64,
    /// `--prefill-local-min-rate`, per second
    pub local_rate: f64,
    /// `--prefill-breaker-failures`; `None`: no engine is ever put aside
    pub breaker_failures: Option<NonZeroU32>,
    /// `--prefill-breaker-pause`
    pub breaker_pause: Duration,
}

impl Failover {
    /// These rules, with a full budget and no engine aside.
    pub fn new(rules: Rules) -> Self {
        let breaker =
            rules.breaker_failures.map(|failures| Mutex::new(Breaker::new(failures, rules.breaker_pause)));
        Self {
            policy: rules.policy,
            retries: rules.retries,
            pause: rules.pause,
            budget: Mutex::new(Budget::new(rules.local_ratio, rules.local_rate, Time::default())),
            breaker,
            trouble: AtomicBool::new(false),
        }
    }

    /// What a request with so many candidates may do. Counts the request.
    pub fn recovery(&self, candidates: usize, now: Time) -> Recovery {
        if self.policy == Policy::Local {
            lock(&self.budget).deposit(now);
        }
        Recovery {
            same: self.retries,
            pause: self.pause,
            others: if self.policy == Policy::Fail { 0 } else { candidates.saturating_sub(1) },
            local: self.policy == Policy::Local,
        }
    }

    /// Whether more than the first candidate matters.
    pub fn uses_others(&self) -> bool {
        self.policy != Policy::Fail
    }

    /// Whether the decode engine is the last resort.
    pub fn ends_locally(&self) -> bool {
        self.policy == Policy::Local
    }

    /// Whether the decode engine may compute one more prompt.
    pub fn grant_local(&self, now: Time) -> bool {
        lock(&self.budget).withdraw(now)
    }

    /// Puts candidates that are aside last; their order is kept otherwise.
    pub fn order(&self, candidates: &mut [Arc<Endpoint>], now: Time) {
        let Some(breaker) = &self.breaker else { return };
        if candidates.len() > 1 && self.trouble.load(Ordering::Relaxed) {
            let mut breaker = lock(breaker);
            candidates.sort_by_cached_key(|candidate| breaker.is_aside(candidate, now));
        }
    }

    /// A prefill engine could not be reached.
    pub fn unreachable(&self, engine: &Arc<Endpoint>, now: Time) {
        let Some(breaker) = &self.breaker else { return };
        self.trouble.store(true, Ordering::Relaxed);
        if lock(breaker).failed(engine, now) {
            tracing::warn!(target = %engine, "prefill engine is put aside: it refuses connections");
        }
    }

    /// A prefill engine answered, whatever it said.
    pub fn answered(&self, engine: &Arc<Endpoint>) {
        let Some(breaker) = &self.breaker else { return };
        if self.trouble.load(Ordering::Relaxed) {
            let mut breaker = lock(breaker);
            breaker.answered(engine);
            self.trouble.store(!breaker.is_clear(), Ordering::Relaxed);
        }
    }

    /// Engines that are aside.
    pub fn aside(&self, now: Time) -> usize {
        self.breaker.as_ref().map_or(0, |breaker| lock(breaker).aside(now))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
