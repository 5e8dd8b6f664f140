//! Latencies as a histogram with three significant digits: the tail of millions of requests in constant memory, and no
//! averaging of percentiles, which would say nothing.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::num::nanos;

/// The longest latency that is told apart, nanoseconds: 60 s, longer than any request the bench waits for.
const LONGEST_NS: u64 = 60_000_000_000;

/// Significant decimal digits kept: an error of 0.1 %, well below the noise between rounds.
const DIGITS: u8 = 3;

/// Latencies of one measurement.
#[derive(Debug, Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// What is told of them, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// How many were recorded.
    pub count: u64,
    /// Median.
    pub p50_us: f64,
    /// 90th percentile.
    pub p90_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)
            .expect("the bounds are constants that the histogram accepts");
        Self { histogram }
    }
}

impl Latencies {
    /// Records one; anything longer than a minute counts as a minute.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(nanos(latency).max(1));
    }

    /// Percentiles of what was recorded; all zero for nothing.
    pub fn quantiles(&self) -> Quantiles {
        if self.histogram.is_empty() {
            return Quantiles::default();
        }
        let us = |ns: u64| crate::num::float(ns) / 1e3;
        let at = |quantile| us(self.histogram.value_at_quantile(quantile));
        Quantiles {
            count: self.histogram.len(),
            p50_us: at(0.50),
            p90_us: at(0.90),
            p99_us: at(0.99),
            max_us: us(self.histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(value: f64, expected: f64) -> bool {
        (value - expected).abs() <= expected * 0.002
    }

    #[test]
    fn percentiles_of_an_even_spread() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let quantiles = latencies.quantiles();
        assert_eq!(quantiles.count, 1000);
        assert!(close(quantiles.p50_us, 500.0), "{quantiles:?}");
        assert!(close(quantiles.p90_us, 900.0), "{quantiles:?}");
        assert!(close(quantiles.p99_us, 990.0), "{quantiles:?}");
        assert!(close(quantiles.max_us, 1000.0), "{quantiles:?}");
    }

    #[test]
    fn one_slow_request_in_a_hundred_shows_in_the_tail_only() {
        let mut latencies = Latencies::default();
        for _ in 0..98 {
            latencies.record(Duration::from_micros(100));
        }
        latencies.record(Duration::from_millis(5));
        latencies.record(Duration::from_millis(5));
        let quantiles = latencies.quantiles();
        assert!(close(quantiles.p90_us, 100.0));
        assert!(close(quantiles.p99_us, 5000.0));
    }

    #[test]
    fn nothing_recorded_is_zero_and_too_long_is_a_minute() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantiles(), Quantiles::default());
        latencies.record(Duration::from_secs(3600));
        assert!(close(latencies.quantiles().max_us, 60e6));
    }
}
