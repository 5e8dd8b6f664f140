//! What was found between all pairs, and which of it is not as it should be. Pure.

use kvferry_bench_common::num::median;
use serde::{Deserialize, Serialize};

/// What one host found out about another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// How it is reached.
    pub lane: String,
    /// 10^9 bytes a second.
    pub gb_per_s: f64,
    /// Half of single blocks took at most so long, µs.
    pub p50_us: f64,
    /// 99 of a hundred.
    pub p99_us: f64,
    /// Meeting took so long.
    pub handshake_ms: f64,
}

/// One way between two hosts.
#[derive(Debug, Serialize)]
pub struct Pair<'a> {
    /// Whose bytes they were.
    pub from: &'a str,
    /// Who read them.
    pub to: &'a str,
    /// What was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<&'a Found>,
    /// Why nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
}

/// A pair that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whose bytes they were.
    pub from: String,
    /// Who read them.
    pub to: String,
    /// `failed`, `slow` or `lane`.
    pub what: &'static str,
    /// What it is, and what to look at.
    pub sentence: String,
}

/// All pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// The hosts.
    pub peers: Vec<String>,
    cells: Vec<Option<Result<Found, String>>>,
}

impl Matrix {
    /// Nothing is known yet.
    pub fn new(peers: Vec<String>) -> Self {
        let cells = vec![None; peers.len() * peers.len()];
        Self { peers, cells }
    }

    /// What was found when `to` read from `from`.
    pub fn set(&mut self, from: usize, to: usize, found: Result<Found, String>) {
        let index = from * self.peers.len() + to;
        self.cells[index] = Some(found);
    }

    /// The same, to look at.
    pub fn get(&self, from: usize, to: usize) -> Option<&Result<Found, String>> {
        self.cells[from * self.peers.len() + to].as_ref()
    }

    /// The median speed of all pairs that work.
    pub fn median(&self) -> Option<f64> {
        median(self.cells.iter().flatten().flatten().map(|found| found.gb_per_s))
    }

    /// All pairs that were tried.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let size = self.peers.len();
        let pair = |index: usize| {
            let result = self.cells[index].as_ref()?;
            Some(Pair {
                from: &self.peers[index / size],
                to: &self.peers[index % size],
                found: result.as_ref().ok(),
                error: result.as_ref().err().map(String::as_str),
            })
        };
        (0..self.cells.len()).filter_map(pair).collect()
    }

    /// Pairs that failed, are below `threshold` of the median, or are reached in another way than `lane`.
    pub fn verdicts(&self, threshold: f64, lane: Option<&str>) -> Vec<Verdict> {
        let median = self.median();
        self.pairs().into_iter().filter_map(|pair| verdict(&pair, median, threshold, lane)).collect()
    }
}

fn verdict(pair: &Pair<'_>, median: Option<f64>, threshold: f64, lane: Option<&str>) -> Option<Verdict> {
    let Pair { from, to, .. } = *pair;
    let says = |what, sentence| Some(Verdict { from: from.into(), to: to.into(), what, sentence });
    let Some(found) = pair.found else {
        let error = pair.error.unwrap_or("nothing was found");
        return says(
            "failed",
            format!(
                "{from} to {to} failed: {error}. Check that `kvferry-bench transfer --serve` runs on both, that {to} \
                 reaches {from} under that name, and that no firewall stops the ports that data takes (any free one)."
            ),
        );
    };
    if let Some(wanted) = lane.filter(|wanted| !found.lane.contains(wanted)) {
        return says(
            "lane",
            format!(
                "{from} to {to} goes over {}, not {wanted}. Check the devices and transports of both hosts \
                 (`kvferry-sidecar doctor`, UCX_NET_DEVICES, UCX_TLS).",
                found.lane
            ),
        );
    }
    let median = median.filter(|median| found.gb_per_s < median * threshold)?;
    says(
        "slow",
        format!(
            "{from} to {to} reaches {:.2} GB/s, {:.0} % of the median {median:.2} GB/s, over {}. Check the cable or port of \
             both hosts, their MTU, what else runs there, and whether other pairs of {from} or {to} are slow as well.",
            found.gb_per_s,
            100.0 * found.gb_per_s / median,
            found.lane
        ),
    )
}

/// A line while it goes on.
pub(super) fn progress(from: &str, to: &str, found: &kvferry_bench_common::Result<Found>) -> String {
    match found {
        Ok(found) => {
            format!("{from} to {to}: {:.2} GB/s, p50 {:.1} us, {}", found.gb_per_s, found.p50_us, found.lane)
        }
        Err(error) => format!("{from} to {to}: FAILED: {error}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn found(gb_per_s: f64, lane: &str) -> Found {
        Found { lane: lane.into(), gb_per_s, p50_us: 20.0, p99_us: 30.0, handshake_ms: 1.0 }
    }

    /// Three hosts; from the last one to the first is slow, and between the last two nothing works one way.
    pub(crate) fn matrix() -> Matrix {
        let mut matrix = Matrix::new(["a:1", "b:1", "c:1"].map(str::to_owned).to_vec());
        for (from, to, speed) in [(0, 1, 10.0), (1, 0, 10.0), (0, 2, 9.0), (2, 0, 2.0), (1, 2, 11.0)] {
            matrix.set(from, to, Ok(found(speed, "tcp (socket)")));
        }
        matrix.set(2, 1, Err("connection refused".into()));
        matrix
    }

    #[test]
    fn a_pair_that_fails_or_is_far_below_the_median_is_told_with_what_to_check() {
        let verdicts = matrix().verdicts(0.5, None);
        assert_eq!(verdicts.len(), 2);
        let slow = verdicts.iter().find(|verdict| verdict.what == "slow").unwrap();
        assert_eq!((slow.from.as_str(), slow.to.as_str()), ("c:1", "a:1"));
        assert!(
            slow.sentence.contains("20 % of the median") && slow.sentence.contains("MTU"),
            "{}",
            slow.sentence
        );
        let failed = verdicts.iter().find(|verdict| verdict.what == "failed").unwrap();
        assert!(failed.sentence.contains("connection refused") && failed.sentence.contains("firewall"));
    }

    #[test]
    fn the_threshold_decides_what_is_slow_and_a_lane_can_be_asked_for() {
        assert_eq!(matrix().verdicts(0.1, None).len(), 1, "only the one that failed");
        assert_eq!(matrix().verdicts(0.1, Some("socket")).len(), 1);
        let lanes = matrix().verdicts(0.1, Some("rc"));
        assert_eq!(lanes.iter().filter(|verdict| verdict.what == "lane").count(), 5);
    }

    #[test]
    fn nobody_is_slow_where_nothing_works() {
        let mut matrix = Matrix::new(vec!["a".into(), "b".into()]);
        matrix.set(0, 1, Err("no".into()));
        assert_eq!((matrix.median(), matrix.verdicts(0.5, None).len()), (None, 1));
    }
}
