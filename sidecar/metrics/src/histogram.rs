//! A histogram of durations without a lock.
//!
//! Each thread counts in one of a few shards, so that worker threads which record at the same time do not pull the same
//! cache line back and forth. The total count is the sum of the buckets, never a number of its own: a scrape beside
//! running recordings may miss the newest, but what it reads fits together.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::buckets::{Buckets, MAX_BOUNDS};

/// Threads that record at the same time are workers, few; beyond this many some share, which is correct but slower.
const SHARDS: usize = 8;

/// The sum is kept in steps of this many nanoseconds: fine enough for ITL, and thousands of streams that add up their
/// seconds overflow it after decades (with nanoseconds: after months).
const STEP_NANOS: u64 = 100;

/// Counts of durations, by upper bound.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Buckets,
    shards: Box<[Shard]>,
}

/// Aligned to the pair of cache lines that processors fetch together.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// In steps of [`STEP_NANOS`].
    sum: AtomicU64,
    /// One per bound, and one beyond the last.
    counts: [AtomicU64; MAX_BOUNDS + 1],
}

impl Default for Shard {
    fn default() -> Self {
        Self { sum: AtomicU64::new(0), counts: [const { AtomicU64::new(0) }; MAX_BOUNDS + 1] }
    }
}

/// What a histogram holds at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    /// Seconds.
    pub(crate) sum: f64,
    /// Of all buckets.
    pub(crate) count: u64,
    /// Upper bound in seconds, and how many are at most that and above the bound before.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(crate) fn new(buckets: Buckets) -> Self {
        Self { buckets, shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    /// Counts one duration.
    pub(crate) fn observe(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let shard = &self.shards[this_threads_shard()];
        shard.counts[self.buckets.index(nanos)].fetch_add(1, Ordering::Relaxed);
        shard.sum.fetch_add(nanos.saturating_add(STEP_NANOS / 2) / STEP_NANOS, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let bounds = self.buckets.bounds().iter().map(|nanos| seconds(*nanos, 1)).chain([f64::INFINITY]);
        let total = |index: usize| {
            self.shards.iter().map(|shard| shard.counts[index].load(Ordering::Relaxed)).sum::<u64>()
        };
        let buckets: Vec<_> = bounds.enumerate().map(|(index, bound)| (bound, total(index))).collect();
        // An overflow of the total takes one shard near its own, decades away.
        let sum =
            self.shards.iter().map(|shard| shard.sum.load(Ordering::Relaxed)).fold(0, u64::wrapping_add);
        Snapshot {
            sum: seconds(sum, STEP_NANOS),
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let now = self.snapshot();
        encoder.encode_histogram::<NoLabelSet>(now.sum, now.count, &now.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// `steps` of `step_nanos` each, in seconds.
#[expect(clippy::cast_precision_loss, reason = "a dashboard needs no more than 53 bits")]
fn seconds(steps: u64, step_nanos: u64) -> f64 {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    steps as f64 / (NANOS_PER_SECOND / step_nanos) as f64
}

/// Threads take shards in turn, at their first recording.
fn this_threads_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    // While a thread ends its locals may be gone already; any shard is as correct.
    SHARD.try_with(|shard| *shard).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::buckets;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_one_nanosecond_more_does_not() {
        for buckets in buckets::ALL {
            for (index, bound) in buckets.bounds().iter().enumerate() {
                let histogram = Histogram::new(*buckets);
                histogram.observe(Duration::from_nanos(*bound));
                assert_eq!(histogram.snapshot().buckets[index].1, 1);
                histogram.observe(Duration::from_nanos(bound + 1));
                assert_eq!(histogram.snapshot().buckets[index].1, 1);
                assert_eq!(histogram.snapshot().buckets[index + 1].1, 1);
            }
        }
    }

    #[test]
    fn the_longest_duration_there_is_counts_beyond_the_last_bound() {
        let histogram = Histogram::new(buckets::STAGE);
        histogram.observe(Duration::MAX);
        assert_eq!(histogram.snapshot().buckets.last().unwrap(), &(f64::INFINITY, 1));
    }

    #[test]
    fn nothing_that_many_threads_record_is_lost() {
        const THREADS: u64 = 16;
        const EACH: u64 = 5_000;
        let histogram = Histogram::new(buckets::INTER_TOKEN);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let histogram = &histogram;
                scope.spawn(move || {
                    for _ in 0..EACH {
                        histogram.observe(Duration::from_millis(number));
                    }
                });
            }
        });
        let now = histogram.snapshot();
        assert_eq!(now.count, THREADS * EACH);
        // 0 + 1 + ... + 15 ms, 5,000 times each.
        assert!((now.sum - 600.0).abs() < 1e-9, "{}", now.sum);
    }

    proptest! {
        #[test]
        fn it_counts_what_a_naive_model_counts(nanos in prop::collection::vec(0_u64..2_000_000_000_000, 0..200)) {
            for buckets in buckets::ALL {
                let histogram = Histogram::new(*buckets);
                for nanos in &nanos {
                    histogram.observe(Duration::from_nanos(*nanos));
                }
                let now = histogram.snapshot();
                let mut cumulative = 0;
                for ((bound, count), nanos_bound) in now.buckets.iter().zip(buckets.bounds()) {
                    cumulative += count;
                    let naive = nanos.iter().filter(|nanos| *nanos <= nanos_bound).count();
                    prop_assert_eq!(cumulative, naive as u64, "at most {} s", bound);
                }
                prop_assert_eq!(now.count, nanos.len() as u64);
                let naive: f64 = nanos.iter().map(|nanos| Duration::from_nanos(*nanos).as_secs_f64()).sum();
                // Each is rounded to a step; the sums themselves are far from what a float cannot hold.
                let rounding = nanos.iter().map(|_| 1e-7).sum::<f64>() + 1e-7;
                prop_assert!((now.sum - naive).abs() < rounding, "{} against {}", now.sum, naive);
            }
        }
    }
}
