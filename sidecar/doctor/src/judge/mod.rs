//! From facts to findings: what is good, what is in the way, and what to do about it. Pure.

mod accelerators;
mod host;
mod libraries;
mod peer;
mod rdma;

use serde::Serialize;

use crate::facts::Facts;
use crate::peer::Measured;

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

/// Findings, the worst first; those of one level in the order of what they are about. `measured`: with a peer, or why
/// nothing could be.
pub fn judge(
    facts: &Facts,
    measured: Option<&Result<Measured, String>>,
    want: Want,
) -> (Vec<Finding>, Verdict) {
    let mut findings = match measured {
        None => Vec::new(),
        Some(Ok(measured)) => peer::judge(facts, measured, want),
        Some(Err(why)) => vec![
            Finding::new("peer_failed", Level::Fail, format!("nothing moved to or from the peer: {why}"))
                .fix("see that kvferry-sidecar doctor --listen runs there, with the same secret and release"),
        ],
    };
    findings.extend(rdma::judge(facts, want));
    findings.extend(libraries::judge(facts, want));
    findings.extend(accelerators::judge(facts));
    findings.extend(host::judge(facts));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let verdict = verdict(facts, measured.and_then(|measured| measured.as_ref().ok()), &findings);
    (findings, verdict)
}

fn verdict(facts: &Facts, measured: Option<&Measured>, findings: &[Finding]) -> Verdict {
    let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    let rdma = rdma::usable(facts);
    let sentence = match (measured, rdma.as_slice()) {
        (Some(measured), _) => {
            let (peer, lane) = (&measured.peer, &measured.chosen.lane);
            let word = if peer::is_rdma(lane) { "RDMA is used" } else { "RDMA is not used" };
            format!("{word}: transfers with {peer} go over {lane}.")
        }
        (None, []) => {
            let cause = findings.iter().find(|finding| finding.code.starts_with("rdma_"));
            let why = cause.map_or_else(String::new, |cause| format!(": {}", cause.what));
            format!(
                "RDMA is not used{why}. Transfers go by shared memory within this host and by TCP between hosts."
            )
        }
        (None, lanes) => {
            format!(
                "RDMA can be used, over {}. Whether it is, only a transfer tells: add --peer.",
                lanes.join(", ")
            )
        }
    };
    Verdict { level, rdma, sentence }
}

#[cfg(test)]
pub(crate) mod tests;
