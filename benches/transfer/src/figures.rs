//! From windows to figures: medians over rounds of one cell and side, and ratios of rounds that were taken side by side.

use std::time::Duration;

use hdrhistogram::Histogram;
use kvferry_bench_common::num::{float, median, ratio};
use serde::Serialize;

use crate::session::Window;

/// One window, with where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Which work.
    pub cell: String,
    /// Which side.
    pub side: String,
    /// Which round.
    pub round: usize,
    /// What was measured.
    pub window: Window,
}

/// From the submission of a transfer to its end, µs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(clippy::struct_field_names, reason = "in files, a number's name says its unit")]
pub struct Latency {
    /// Half of them.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of a hundred.
    pub p99_us: f64,
    /// 999 of a thousand.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// What one side did in one cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// Which work.
    pub cell: String,
    /// Which side.
    pub side: String,
    /// 10^9 bytes a second, the median of the rounds.
    pub gb_per_s: f64,
    /// Half of the rounds lie between these two.
    pub quartiles: [f64; 2],
    /// Blocks a second, the median.
    pub blocks_per_s: f64,
    /// CPU time of all processes of the side for each block, µs: the median. `None` where it is too short to be seen.
    pub cpu_us_per_block: Option<f64>,
    /// 10^9 bytes for each second of CPU time, the median.
    pub gb_per_cpu_s: Option<f64>,
    /// Time in the calls that submit a transfer, µs: the median. `None` where nobody submits.
    pub submit_us: Option<f64>,
    /// `None` where transfers are not seen one by one.
    pub latency: Option<Latency>,
    /// Transfers of which the latency is known.
    pub transfers: u64,
    /// Every round's GB/s, in the order in which they were measured.
    pub rounds: Vec<f64>,
}

fn speed(window: &Window) -> f64 {
    float(window.ran.bytes) / window.ran.seconds / 1e9
}

fn cpu(window: &Window) -> Option<f64> {
    let cpu = window.ran.cpu_s + window.driven_cpu_s;
    (cpu > 0.0).then_some(cpu)
}

/// Figures of one side in one cell; `None` if it was not measured there.
pub fn figures(samples: &[Sample], cell: &str, side: &str) -> Option<Figures> {
    let windows: Vec<&Window> = samples
        .iter()
        .filter(|sample| sample.cell == cell && sample.side == side)
        .map(|sample| &sample.window)
        .collect();
    let rounds: Vec<f64> = windows.iter().map(|window| speed(window)).collect();
    let mut sorted = rounds.clone();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len().div_ceil(2);
    let quartile = |part: &[f64]| median(part.iter().copied());
    let of =
        |value: &dyn Fn(&Window) -> Option<f64>| median(windows.iter().filter_map(|window| value(window)));
    let blocks = |window: &Window| float(window.ran.blocks);
    let latencies = histogram(&windows);
    Some(Figures {
        cell: cell.to_owned(),
        side: side.to_owned(),
        gb_per_s: median(rounds.iter().copied())?,
        quartiles: [quartile(&sorted[..half])?, quartile(&sorted[sorted.len() - half..])?],
        blocks_per_s: of(&|window| ratio(blocks(window), window.ran.seconds))?,
        cpu_us_per_block: of(&|window| Some(cpu(window)? * 1e6 / blocks(window))),
        gb_per_cpu_s: of(&|window| Some(float(window.ran.bytes) / cpu(window)? / 1e9)),
        submit_us: of(&|window| {
            let each = window.ran.submit_s * 1e6 / float(window.ran.transfers.max(1));
            (each > 0.0).then_some(each)
        }),
        latency: latency(&latencies),
        transfers: latencies.len(),
        rounds,
    })
}

/// Digits of latencies that are kept: a per mille, which no machine repeats.
const DIGITS: u8 = 3;

/// The longest latency that is told from longer ones, ns: an hour.
const LONGEST: u64 = 3_600_000_000_000;

/// A histogram of nanoseconds.
pub(crate) fn nanoseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that a histogram takes")
}

fn histogram(windows: &[&Window]) -> Histogram<u64> {
    let mut all = nanoseconds();
    for (nanos, count) in windows.iter().flat_map(|window| &window.ran.latencies) {
        all.saturating_record_n(*nanos, *count);
    }
    all
}

fn latency(all: &Histogram<u64>) -> Option<Latency> {
    if all.is_empty() {
        return None;
    }
    let at = |quantile| Duration::from_nanos(all.value_at_quantile(quantile)).as_secs_f64() * 1e6;
    Some(Latency {
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: Duration::from_nanos(all.max()).as_secs_f64() * 1e6,
    })
}

/// The speed of `side` over that of `base`: the median of the ratios of rounds that both have, which a machine that slows
/// down between two rounds does not move.
pub fn of_rounds(samples: &[Sample], cell: &str, side: &str, base: &str) -> Option<f64> {
    paired(samples, cell, side, base, &|window| Some(speed(window)))
}

/// The same for blocks a second.
pub fn of_rates(samples: &[Sample], cell: &str, side: &str, base: &str) -> Option<f64> {
    paired(samples, cell, side, base, &|window| ratio(float(window.ran.blocks), window.ran.seconds))
}

/// The same for the time in calls that submit.
pub fn of_submits(samples: &[Sample], cell: &str, side: &str, base: &str) -> Option<f64> {
    paired(samples, cell, side, base, &|window| {
        ratio(window.ran.submit_s, float(window.ran.transfers)).filter(|each| *each > 0.0)
    })
}

/// The same for the median latency of each round.
pub fn of_latencies(samples: &[Sample], cell: &str, side: &str, base: &str) -> Option<f64> {
    paired(samples, cell, side, base, &|window| Some(latency(&histogram(&[window]))?.p50_us))
}

fn paired(
    samples: &[Sample],
    cell: &str,
    side: &str,
    base: &str,
    value: &dyn Fn(&Window) -> Option<f64>,
) -> Option<f64> {
    let here: Vec<&Sample> = samples.iter().filter(|sample| sample.cell == cell).collect();
    median(here.iter().filter(|sample| sample.side == side).filter_map(|sample| {
        let beside = here.iter().find(|other| other.side == base && other.round == sample.round)?;
        ratio(value(&sample.window)?, value(&beside.window)?)
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::protocol::Ran;

    /// A window of one second that moved so many GB in as many thousand blocks, one transfer of a microsecond each.
    pub(crate) fn sample(cell: &str, side: &str, round: usize, gb: u64) -> Sample {
        let ran = Ran {
            seconds: 1.0,
            bytes: gb * 1_000_000_000,
            blocks: gb * 1000,
            transfers: 10,
            cpu_s: 0.25,
            submit_s: 1e-4,
            latencies: vec![(1000, 9), (2000, 1)],
        };
        Sample { cell: cell.into(), side: side.into(), round, window: Window { ran, driven_cpu_s: 0.25 } }
    }

    #[test]
    fn a_median_of_rounds_is_not_moved_by_one_bad_round() {
        let samples: Vec<Sample> =
            [4, 4, 5, 4, 1].into_iter().enumerate().map(|(round, gb)| sample("c", "s", round, gb)).collect();
        let figures = figures(&samples, "c", "s").unwrap();
        assert!((figures.gb_per_s - 4.0).abs() < 1e-9 && (figures.blocks_per_s - 4000.0).abs() < 1e-6);
        assert!((figures.cpu_us_per_block.unwrap() - 125.0).abs() < 1e-6, "both ends' half a second");
        assert!((figures.submit_us.unwrap() - 10.0).abs() < 1e-6);
        assert_eq!((figures.rounds.len(), figures.transfers), (5, 50));
    }

    #[test]
    fn latencies_of_all_rounds_make_one_histogram() {
        let samples = [sample("c", "s", 0, 1), sample("c", "s", 1, 1)];
        let latency = figures(&samples, "c", "s").unwrap().latency.unwrap();
        assert!((latency.p50_us - 1.0).abs() < 0.01 && (latency.max_us - 2.0).abs() < 0.01, "{latency:?}");
    }

    #[test]
    fn a_machine_that_slows_down_does_not_move_a_ratio_of_rounds() {
        let samples = [
            sample("c", "a", 0, 8),
            sample("c", "b", 0, 4),
            sample("c", "a", 1, 2),
            sample("c", "b", 1, 1),
            sample("other", "b", 1, 100),
        ];
        assert!((of_rounds(&samples, "c", "a", "b").unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(of_rounds(&samples, "c", "a", "none"), None);
        assert!((of_latencies(&samples, "c", "a", "b").unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_has_no_figures() {
        assert_eq!(figures(&[], "c", "s"), None);
        let mut silent = sample("c", "s", 0, 1);
        (silent.window.ran.cpu_s, silent.window.driven_cpu_s) = (0.0, 0.0);
        silent.window.ran.submit_s = 0.0;
        silent.window.ran.latencies.clear();
        let figures = figures(&[silent], "c", "s").unwrap();
        assert_eq!((figures.cpu_us_per_block, figures.submit_us, figures.latency), (None, None, None));
    }
}
