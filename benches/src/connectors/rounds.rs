//! From windows to ratios. In each window a side and its base serve the same load at the same time, so that a machine that
//! slows down, or gives a process less than its share, moves both. What a side costs is the median of its rounds.

use serde::Serialize;

use crate::num::median;

/// CPU time for each request in one window, µs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    /// The base's.
    pub(super) base: f64,
    /// The side's.
    pub(super) side: f64,
}

impl Pair {
    fn ratio(self) -> f64 {
        self.side / self.base
    }
}

/// What the rounds of a side say.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Cost {
    /// CPU time for each request, µs, the median of the rounds.
    pub(super) us: f64,
    /// The base's beside it, the median of the rounds.
    pub(super) base_us: f64,
    /// Median of the rounds' ratios.
    pub(super) ratio: f64,
    /// Half of the rounds lie between these two.
    pub(super) quartiles: [f64; 2],
    /// Every round's ratio, in the order they were measured.
    pub(super) rounds: Vec<f64>,
}

impl Cost {
    /// `None` without a round.
    pub(super) fn of(pairs: &[Pair]) -> Option<Self> {
        let rounds: Vec<f64> = pairs.iter().map(|pair| pair.ratio()).collect();
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        // The medians of the lower and the upper half, the middle one in both.
        let half = sorted.len().div_ceil(2);
        let quartile = |half: &[f64]| median(half.iter().copied());
        Some(Self {
            us: median(pairs.iter().map(|pair| pair.side))?,
            base_us: median(pairs.iter().map(|pair| pair.base))?,
            ratio: median(rounds.iter().copied())?,
            quartiles: [quartile(&sorted[..half])?, quartile(&sorted[sorted.len() - half..])?],
            rounds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(base: f64, side: f64) -> Pair {
        Pair { base, side }
    }

    #[test]
    fn a_machine_that_slows_down_does_not_show() {
        let cost = Cost::of(&[pair(20.0, 22.0), pair(100.0, 110.0), pair(1.0, 1.1)]).unwrap();
        assert!((cost.ratio - 1.1).abs() < 1e-9, "{cost:?}");
        assert!((cost.us - 22.0).abs() < 1e-9 && (cost.base_us - 20.0).abs() < 1e-9);
    }

    #[test]
    fn one_bad_round_moves_neither_median_nor_quartiles_far() {
        let good = [1.01, 1.02, 1.03, 1.04, 5.0].map(|side| pair(1.0, side));
        let cost = Cost::of(&good).unwrap();
        assert!((cost.ratio - 1.03).abs() < 1e-9);
        assert!((cost.quartiles[0] - 1.02).abs() < 1e-9 && (cost.quartiles[1] - 1.04).abs() < 1e-9);
        assert_eq!(cost.rounds.len(), 5);
    }

    #[test]
    fn nothing_measured_is_no_cost() {
        assert_eq!(Cost::of(&[]), None);
    }
}
