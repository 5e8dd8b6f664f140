//! What an engine has done since it started: the counters behind `/metrics` and `/emulator/state`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::prompt::Share;

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How many of something exist right now.
#[derive(Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    /// Counts one more until the returned token is dropped.
    pub(crate) fn enter(self: &std::sync::Arc<Self>) -> GaugeToken {
        self.0.fetch_add(1, Relaxed);
        GaugeToken(std::sync::Arc::clone(self))
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One unit of a [`Gauge`].
pub(crate) struct GaugeToken(std::sync::Arc<Gauge>);

impl Drop for GaugeToken {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// A cumulative histogram with fixed upper bounds.
pub(crate) struct Histogram {
    bounds: &'static [f64],
    filled: Mutex<Filled>,
}

#[derive(Clone, Default)]
struct Filled {
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, filled: Mutex::new(Filled { buckets: vec![0; bounds.len()], ..Filled::default() }) }
    }

    pub(crate) fn observe(&self, value: f64) {
        let mut filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner);
        for (bucket, bound) in filled.buckets.iter_mut().zip(self.bounds) {
            *bucket += u64::from(value <= *bound);
        }
        filled.count += 1;
        filled.sum += value;
    }

    /// `(upper bound, cumulative count)` pairs, then the count and the sum.
    pub(crate) fn read(&self) -> (Vec<(f64, u64)>, u64, f64) {
        let filled = self.filled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.bounds.iter().copied().zip(filled.buckets).collect(), filled.count, filled.sum)
    }
}

/// Upper bounds in seconds, as vLLM's NIXL connector has them for transfer times.
const SECONDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0];
/// Upper bounds in bytes: 2 KiB to 8 GiB in steps of 4, likewise.
const BYTES: &[f64] = &[
    2048.0,
    8192.0,
    32_768.0,
    131_072.0,
    524_288.0,
    2_097_152.0,
    8_388_608.0,
    33_554_432.0,
    134_217_728.0,
    536_870_912.0,
    2_147_483_648.0,
    8_589_934_592.0,
];

/// All counters of one engine life.
pub(crate) struct Stats {
    pub(crate) prefills: Counter,
    pub(crate) decodes: Counter,
    pub(crate) pulls: Counter,
    pub(crate) pull_bytes: Counter,
    pub(crate) pull_refused: Counter,
    pub(crate) releases_after_read: Counter,
    pub(crate) releases_without_read: Counter,
    pub(crate) late_notifications: Counter,
    pub(crate) expired: Counter,
    pub(crate) aborted: Counter,
    pub(crate) finished: Counter,
    pub(crate) prompt_tokens: Counter,
    pub(crate) generation_tokens: Counter,
    pub(crate) prefix_queries: Counter,
    pub(crate) prefix_hits: Counter,
    pub(crate) external_queries: Counter,
    pub(crate) external_hits: Counter,
    pub(crate) computed_prompts: Counter,
    pub(crate) source_hits: Counter,
    pub(crate) source_misses: Counter,
    pub(crate) source_failures: Counter,
    pub(crate) reuse_expired: Counter,
    pub(crate) reuse_pulls: Counter,
    pub(crate) encoded_here: Counter,
    pub(crate) encoder_loaded: Counter,
    pub(crate) encoder_fetched: Counter,
    pub(crate) encoder_outputs: Counter,
    pub(crate) declined: Counter,
    pub(crate) store_saved: Counter,
    pub(crate) store_loaded: Counter,
    pub(crate) running: std::sync::Arc<Gauge>,
    pub(crate) waiting: std::sync::Arc<Gauge>,
    pub(crate) xfer_seconds: Histogram,
    pub(crate) xfer_bytes: Histogram,
    pub(crate) ttft_seconds: Histogram,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            prefills: Counter::default(),
            decodes: Counter::default(),
            pulls: Counter::default(),
            pull_bytes: Counter::default(),
            pull_refused: Counter::default(),
            releases_after_read: Counter::default(),
            releases_without_read: Counter::default(),
            late_notifications: Counter::default(),
            expired: Counter::default(),
            aborted: Counter::default(),
            finished: Counter::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            prefix_queries: Counter::default(),
            prefix_hits: Counter::default(),
            external_queries: Counter::default(),
            external_hits: Counter::default(),
            computed_prompts: Counter::default(),
            source_hits: Counter::default(),
            source_misses: Counter::default(),
            source_failures: Counter::default(),
            reuse_expired: Counter::default(),
            reuse_pulls: Counter::default(),
            encoded_here: Counter::default(),
            encoder_loaded: Counter::default(),
            encoder_fetched: Counter::default(),
            encoder_outputs: Counter::default(),
            declined: Counter::default(),
            store_saved: Counter::default(),
            store_loaded: Counter::default(),
            running: std::sync::Arc::default(),
            waiting: std::sync::Arc::default(),
            xfer_seconds: Histogram::new(SECONDS),
            xfer_bytes: Histogram::new(BYTES),
            ttft_seconds: Histogram::new(SECONDS),
        }
    }
}

impl Stats {
    /// Counts the tokens of one prompt by where their KV came from.
    pub(crate) fn prompt(&self, tokens: usize, share: Share) {
        let Share { received, known } = share;
        self.prompt_tokens.add(tokens as u64);
        self.prefix_queries.add(tokens as u64);
        self.prefix_hits.add(known as u64);
        if received > 0 {
            self.external_queries.add(tokens as u64);
            self.external_hits.add(received as u64);
        } else {
            self.computed_prompts.inc();
        }
    }

    /// Counts one finished pull.
    pub(crate) fn pulled(&self, bytes: u64, took: Duration) {
        self.pulls.inc();
        self.pull_bytes.add(bytes);
        self.xfer_seconds.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a histogram of sizes; 2^53 bytes are far off")]
        self.xfer_bytes.observe(bytes as f64);
    }
}
