//! What the user reads: findings with the worst first, then the verdict. Or the same, and all facts, as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::facts::Facts;
use crate::judge::{Finding, Level, Verdict};
use crate::peer::Measured;

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What transfers will use.
    pub verdict: Verdict,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What was measured with a peer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// What they rest on.
    pub facts: Facts,
}

impl Report {
    /// For other programs.
    pub fn json(&self) -> String {
        let value = serde_json::to_value(self).expect("plain data is always JSON");
        format!("{value:#}\n")
    }

    /// For people; `colour`: for a terminal.
    pub fn text(&self, colour: bool) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let (word, code) = mark(finding.level);
            let word = if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
            let _ = writeln!(text, "{word}  {}", finding.what);
            if let Some(fix) = &finding.fix {
                let _ = writeln!(text, "      → {fix}");
            }
        }
        let _ = writeln!(text, "\n{}", self.verdict.sentence);
        text
    }

    /// 0: nothing to do; 1: something to improve; 3: what was asked for cannot be had. (2 is a wrong command line.)
    pub fn exit_code(&self) -> u8 {
        match self.verdict.level {
            Level::Good | Level::Note => 0,
            Level::Warn => 1,
            Level::Fail => 3,
        }
    }
}

/// A word of four letters and its colour.
const fn mark(level: Level) -> (&'static str, u8) {
    match level {
        Level::Good => ("good", 32),
        Level::Note => ("note", 36),
        Level::Warn => ("WARN", 33),
        Level::Fail => ("FAIL", 31),
    }
}
