//! From facts to findings: what is good, what is in the way, and what to do about it. Pure.

mod accelerators;
mod host;
mod libraries;
mod rdma;

use serde::Serialize;

use crate::facts::Facts;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing; nothing to do.
    Note,
    /// It works, slower than this machine can.
    Warn,
    /// What was asked for cannot be had.
    Fail,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable word for other programs.
    pub code: &'static str,
    /// How much it matters.
    pub level: Level,
    /// What is so.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(code: &'static str, level: Level, what: impl Into<String>) -> Self {
        Self { code, level, what: what.into(), fix: None }
    }

    fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// What the user expects of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Want {
    /// RDMA if there are cards for it.
    Auto,
    /// RDMA: anything else is a failure.
    Rdma,
    /// TCP is fine.
    Any,
}

impl Want {
    /// How much it matters that RDMA cannot be used, though there are cards.
    const fn level(self) -> Level {
        match self {
            Self::Auto => Level::Warn,
            Self::Rdma => Level::Fail,
            Self::Any => Level::Note,
        }
    }
}

/// What transfers will use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The worst of the findings.
    pub level: Level,
    /// `transport/device` that carry bytes without a processor; empty: none.
    pub rdma: Vec<String>,
    /// In a sentence.
    pub sentence: String,
}

/// Findings, the worst first; those of one level in the order of what they are about.
pub fn judge(facts: &Facts, want: Want) -> (Vec<Finding>, Verdict) {
    let mut findings = rdma::judge(facts, want);
    findings.extend(libraries::judge(facts, want));
    findings.extend(accelerators::judge(facts));
    findings.extend(host::judge(facts));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let verdict = verdict(facts, &findings);
    (findings, verdict)
}

fn verdict(facts: &Facts, findings: &[Finding]) -> Verdict {
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    let rdma = rdma::usable(facts);
    let sentence = if rdma.is_empty() {
        let why = match findings.iter().find(|finding| finding.code.starts_with("rdma_")) {
            Some(cause) => format!(": {}", cause.what),
            None => String::new(),
        };
        format!(
            "RDMA is not used{why}. Transfers go by shared memory within this host and by TCP between hosts."
        )
    } else {
        format!(
            "RDMA can be used, over {}. Whether it is, only a transfer tells: add --peer.",
            rdma.join(", ")
        )
    };
    Verdict { level, rdma, sentence }
}

#[cfg(test)]
pub(crate) mod tests;
