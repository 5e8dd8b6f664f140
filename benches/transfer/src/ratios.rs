//! The goals: each is one number made of two measurements of the same run. A number whose other side was not measured is
//! left out and named, never guessed.

use std::collections::BTreeMap;

use kvferry_bench_common::Ratio;

use crate::figures::{self, figures};
use crate::rounds::Outcome;

/// How a goal's number is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Measure {
    /// Speed of the one side over that of the other.
    Speed,
    /// Blocks a second over blocks a second.
    Rate,
    /// Time to submit over time to submit.
    Submit,
    /// p50 over p50.
    Latency,
    /// CPU time for each block over the same. Not of paired rounds: such works may be too large to be open side by side.
    Cpu,
    /// CPU seconds for each second of doing nothing; the other side is none.
    Idle,
}

/// One goal.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// As files name it.
    pub name: String,
    /// In which cell.
    pub cell: String,
    /// Whose.
    pub side: String,
    /// Beside whom: the best of these.
    pub beside: Vec<String>,
    /// Of what.
    pub measure: Measure,
    /// What it must reach; a comparison without a goal belongs beside those that have one.
    pub bound: Option<f64>,
    /// Whether it must be at least the goal, else at most.
    pub at_least: bool,
}

impl Goal {
    fn value(&self, outcome: &Outcome) -> Option<f64> {
        let Self { cell, side, .. } = self;
        let samples = &outcome.samples;
        let against = |base: &String| match self.measure {
            Measure::Speed => figures::of_rounds(samples, cell, side, base),
            Measure::Rate => figures::of_rates(samples, cell, side, base),
            Measure::Submit => figures::of_submits(samples, cell, side, base),
            Measure::Latency => figures::of_latencies(samples, cell, side, base),
            Measure::Cpu => {
                let of = |side: &str| figures(samples, cell, side)?.cpu_us_per_block;
                kvferry_bench_common::num::ratio(of(side)?, of(base)?)
            }
            Measure::Idle => None,
        };
        if self.measure == Measure::Idle {
            return outcome.idle.iter().find(|(name, _)| name == side).map(|(_, share)| *share);
        }
        // Against the best of them, which is the least favourable number.
        let values = self.beside.iter().filter_map(against);
        values.reduce(|one, other| if self.at_least { one.min(other) } else { one.max(other) })
    }
}

/// What came of the goals.
#[derive(Debug, Default, PartialEq)]
pub struct Stand {
    /// Those with a goal.
    pub ratios: BTreeMap<String, Ratio>,
    /// Those without.
    pub besides: BTreeMap<String, f64>,
    /// Those that could not be computed.
    pub missing: Vec<String>,
}

/// Computes all of them.
pub fn stand(goals: &[Goal], outcome: &Outcome) -> Stand {
    let mut stand = Stand::default();
    for goal in goals {
        match (goal.value(outcome), goal.bound) {
            (None, _) => stand.missing.push(goal.name.clone()),
            (Some(value), None) => drop(stand.besides.insert(goal.name.clone(), value)),
            (Some(value), Some(bound)) => {
                let ratio = Ratio { value, goal: bound, at_least: goal.at_least };
                stand.ratios.insert(goal.name.clone(), ratio);
            }
        }
    }
    stand
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::sample;

    fn goal(measure: Measure, beside: &[&str]) -> Goal {
        Goal {
            name: "g".into(),
            cell: "c".into(),
            side: "ours".into(),
            beside: beside.iter().map(|&name| name.to_owned()).collect(),
            measure,
            bound: Some(2.0),
            at_least: true,
        }
    }

    #[test]
    fn a_goal_against_several_is_held_against_the_best_of_them() {
        let samples = vec![sample("c", "ours", 1, 6), sample("c", "slow", 1, 1), sample("c", "fast", 1, 2)];
        let outcome = Outcome { samples, ..Outcome::default() };
        let goals = [goal(Measure::Speed, &["slow", "fast", "absent"])];
        let ratio = stand(&goals, &outcome).ratios["g"];
        assert!((ratio.value - 3.0).abs() < 1e-9 && ratio.passes());
        let at_most = Goal { at_least: false, bound: Some(1.0), ..goal(Measure::Cpu, &["slow", "fast"]) };
        let ratio = stand(&[at_most], &outcome).ratios["g"];
        assert!(
            (ratio.value - 1.0 / 3.0).abs() < 1e-9,
            "{ratio:?}: CPU for each block beside the thriftiest"
        );
    }

    #[test]
    fn what_was_not_measured_is_named_and_never_guessed() {
        let outcome = Outcome { idle: vec![("ours".into(), 0.25)], ..Outcome::default() };
        let speed = stand(&[goal(Measure::Speed, &["absent"])], &outcome);
        assert_eq!((speed.ratios.len(), speed.missing.as_slice()), (0, ["g".to_owned()].as_slice()));
        let idle = stand(&[Goal { bound: None, ..goal(Measure::Idle, &[]) }], &outcome);
        assert_eq!(idle.besides.get("g"), Some(&0.25));
    }
}
