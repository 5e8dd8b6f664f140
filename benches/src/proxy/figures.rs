//! From samples to figures: the median over the rounds of each quantity, and of each latency's difference to the direct
//! side *of the same round*, so that a machine that slows down for a second moves both.

use serde::Serialize;

use super::measure::Sample;
use crate::load::Quantiles;
use crate::num::{float, median, ratio};

/// Three percentiles, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: f64,
    /// 90th.
    pub p90_us: f64,
    /// 99th.
    pub p99_us: f64,
}

/// What a cell says of a side.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The cell's name.
    pub cell: String,
    /// The side's name.
    pub side: String,
    /// Requests in all rounds.
    pub requests: u64,
    /// Wrong or missing answers in all rounds.
    pub errors: u64,
    /// Requests a second.
    pub per_second: f64,
    /// Requests for each second of the proxy's CPU time.
    pub requests_per_cpu_s: Option<f64>,
    /// SSE frames (tokens) for each second of the proxy's CPU time.
    pub frames_per_cpu_s: Option<f64>,
    /// Request latency.
    pub total: Percentiles,
    /// The same, over going direct.
    pub total_added: Option<Percentiles>,
    /// Latency of the first body byte.
    pub first_byte: Percentiles,
    /// The same, over going direct.
    pub first_byte_added: Option<Percentiles>,
    /// Time a frame is under way.
    pub transit: Option<Percentiles>,
    /// The same, over going direct.
    pub transit_added: Option<Percentiles>,
    /// The longest a frame was under way in any round, microseconds.
    pub transit_max_us: f64,
    /// Share of frames that arrived in one read with the frame before, 0 to 1.
    pub joined_share: f64,
}

/// The figures of `side` in `cell`; latencies are compared with the side `direct`. `None` when it was not measured.
pub fn figures(samples: &[Sample], cell: &str, side: &str, direct: &str) -> Option<Figures> {
    let of = |name: &str| -> Vec<&Sample> {
        samples.iter().filter(|sample| sample.cell == cell && sample.side == name).collect()
    };
    let rounds = of(side);
    if rounds.is_empty() {
        return None;
    }
    let base = of(direct);
    let over = |pick: fn(&Sample) -> f64| median(rounds.iter().map(|sample| pick(sample)));
    let percentiles = |pick: fn(&Sample) -> &Quantiles| {
        let at =
            |of: fn(&Quantiles) -> f64| median(rounds.iter().map(|sample| of(pick(sample)))).unwrap_or(0.0);
        Percentiles { p50_us: at(|q| q.p50_us), p90_us: at(|q| q.p90_us), p99_us: at(|q| q.p99_us) }
    };
    let added = |pick: fn(&Sample) -> &Quantiles| {
        let pairs: Vec<(&Quantiles, &Quantiles)> = rounds
            .iter()
            .filter_map(|sample| {
                let direct = base.iter().find(|direct| direct.round == sample.round)?;
                Some((pick(sample), pick(direct)))
            })
            .filter(|(through, direct)| through.count > 0 && direct.count > 0)
            .collect();
        let at = |of: fn(&Quantiles) -> f64| {
            median(pairs.iter().map(|(through, direct)| of(through) - of(direct)))
        };
        (side != direct)
            .then(|| {
                Some(Percentiles {
                    p50_us: at(|q| q.p50_us)?,
                    p90_us: at(|q| q.p90_us)?,
                    p99_us: at(|q| q.p99_us)?,
                })
            })
            .flatten()
    };
    let sum = |pick: fn(&Sample) -> u64| rounds.iter().map(|sample| pick(sample)).sum::<u64>();
    let frames = sum(|sample| sample.summary.frames);
    let has_transit = rounds.iter().any(|sample| sample.summary.transit.count > 0);
    Some(Figures {
        cell: cell.to_owned(),
        side: side.to_owned(),
        requests: sum(|sample| sample.summary.requests),
        errors: sum(|sample| sample.summary.errors),
        per_second: over(|sample| float(sample.summary.requests) / sample.elapsed_s).unwrap_or(0.0),
        requests_per_cpu_s: per_cpu(&rounds, |sample| sample.summary.requests),
        frames_per_cpu_s: per_cpu(&rounds, |sample| sample.summary.frames).filter(|_| frames > 0),
        total: percentiles(|sample| &sample.summary.total),
        total_added: added(|sample| &sample.summary.total),
        first_byte: percentiles(|sample| &sample.summary.first_byte),
        first_byte_added: added(|sample| &sample.summary.first_byte),
        transit: has_transit.then(|| percentiles(|sample| &sample.summary.transit)),
        transit_added: added(|sample| &sample.summary.transit),
        transit_max_us: rounds.iter().map(|sample| sample.summary.transit.max_us).fold(0.0, f64::max),
        joined_share: ratio(float(sum(|sample| sample.summary.joined_frames)), float(frames)).unwrap_or(0.0),
    })
}

/// The median of a count for each CPU-second; `None` when no round burnt a tick of the clock that measures it.
fn per_cpu(rounds: &[&Sample], count: fn(&Sample) -> u64) -> Option<f64> {
    median(rounds.iter().filter_map(|sample| ratio(float(count(sample)), sample.cpu_s?)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::Summary;

    /// A sample of 100 requests whose latencies are all `us`.
    pub(in crate::proxy) fn sample(
        cell: &str,
        side: &str,
        round: u32,
        cpu_s: Option<f64>,
        us: f64,
    ) -> Sample {
        let quantiles = Quantiles { count: 100, p50_us: us, p90_us: us, p99_us: us, max_us: us };
        let summary = Summary {
            requests: 100,
            frames: 1000,
            total: quantiles,
            first_byte: quantiles,
            transit: quantiles,
            ..Summary::default()
        };
        let (cell, side) = (cell.to_owned(), side.to_owned());
        Sample { cell, side, round, elapsed_s: 2.0, cpu_s, generator_cpu_s: 0.1, summary }
    }

    #[test]
    fn added_latency_is_the_median_of_the_differences_within_rounds() {
        let mut samples = Vec::new();
        for (round, (direct, through)) in [(10.0, 15.0), (100.0, 107.0), (20.0, 26.0)].into_iter().enumerate()
        {
            let round = u32::try_from(round).unwrap();
            samples.push(sample("c", "direct", round, None, direct));
            samples.push(sample("c", "sidecar", round, Some(0.5), through));
        }
        let figures = figures(&samples, "c", "sidecar", "direct").unwrap();
        assert_eq!(figures.total_added.map(|added| added.p50_us), Some(6.0));
        assert_eq!(Some(figures.total.p50_us), Some(26.0));
        assert_eq!(Some(figures.per_second), Some(50.0));
        assert_eq!(figures.requests_per_cpu_s, Some(200.0));
        assert_eq!(figures.frames_per_cpu_s, Some(2000.0));
    }

    #[test]
    fn without_cpu_time_or_baseline_nothing_is_made_up() {
        let samples = [sample("c", "x", 0, None, 5.0), sample("c", "y", 0, Some(0.0), 5.0)];
        let x = figures(&samples, "c", "x", "direct").unwrap();
        assert!(x.requests_per_cpu_s.is_none() && x.total_added.is_none());
        assert!(figures(&samples, "c", "y", "direct").unwrap().requests_per_cpu_s.is_none());
        assert!(figures(&samples, "c", "z", "direct").is_none());
    }
}
