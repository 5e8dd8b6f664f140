//! What became of a transfer: the truth about its way, whether it went well or not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kvferry_transfer::fabric::Lane;

use crate::Error;

/// How a transfer went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Bytes that are in place (and verified, if asked for).
    pub bytes: u64,
    /// From its begin to its end.
    pub took: Duration,
    /// The lanes that carried it.
    pub lanes: Vec<LaneUse>,
    /// What had to be tried again; the first [`MAX_LISTED`](crate::limits::MAX_LISTED) of them.
    pub retries: Vec<Retry>,
    /// How often something had to be tried again.
    pub retried: u64,
    /// Whether a slower lane had to carry some of it because a faster one failed.
    pub fell_back: bool,
    /// Whether every byte was verified.
    pub verified: bool,
    /// Whether nothing touches its memory any more. It is not so only if a fabric broke its promise to say so; the memory
    /// must not be used again then until that fabric is closed.
    pub settled: bool,
}

/// What a lane carried of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneUse {
    /// Which: the backend, and the rail's number if there are several.
    pub lane: Arc<str>,
    /// What really carried the bytes, as the fabric has found out.
    pub way: Option<Arc<Lane>>,
    /// Bytes that arrived over it.
    pub bytes: u64,
    /// From the first chunk's begin to the last one's end.
    pub took: Duration,
    /// Chunks that arrived over it.
    pub chunks: u64,
}

/// A chunk that had to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The lane that failed.
    pub lane: Arc<str>,
    /// Why.
    pub error: Error,
    /// The segment that was wrong, or the chunk's first.
    pub segment: usize,
    /// The chunk's bytes.
    pub bytes: u64,
}

/// A transfer that did not end well: why, and how it went until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// How it went.
    pub report: Report,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if let Some(last) = self.report.retries.last() {
            write!(f, " ({} retries, the last after {}: {})", self.report.retried, last.lane, last.error)?;
        }
        if self.report.settled { Ok(()) } else { f.write_str("; its memory may still be touched") }
    }
}

impl std::error::Error for Failure {}
