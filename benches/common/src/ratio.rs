//! A goal: one number made of two measurements of the same run, with the value it must reach.

use serde::Serialize;

/// One goal and how it stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// What was measured.
    pub value: f64,
    /// What it must reach.
    pub goal: f64,
    /// Whether it must be at least the goal, else at most.
    pub at_least: bool,
}

impl Ratio {
    /// Whether the goal is reached.
    pub fn passes(&self) -> bool {
        if self.at_least { self.value >= self.goal } else { self.value <= self.goal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_met_from_the_right_side() {
        let ratio = |value, at_least| Ratio { value, goal: 2.0, at_least };
        assert!(ratio(2.0, true).passes() && ratio(2.0, false).passes());
        assert!(!ratio(1.9, true).passes() && !ratio(2.1, false).passes());
    }
}
