//! Everything that was measured in a run: what the checks look at and what soak.json holds.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::Phase;
use crate::sidecar::Ended;

/// A whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    /// Repeats the run's decisions.
    pub(crate) seed: u64,
    pub(crate) connector: String,
    pub(crate) streams: u64,
    pub(crate) prefills: u8,
    pub(crate) storm: Part,
    pub(crate) calm: Part,
    /// Requests that engines were told to let wait for longer than a client waits.
    pub(crate) stalls: u64,
    /// Lives of all engines together.
    pub(crate) lives: u64,
    /// Runnable threads over the last minute, at the end: a machine that others keep busy makes honest answers late.
    pub(crate) load_average: f64,
    /// Leases that ran out while all engines were well.
    pub(crate) expired_in_calm: u64,
    /// One reading a second, under load and after.
    pub(crate) samples: Vec<Sample>,
    /// Descriptors of the sidecar before the first request.
    pub(crate) descriptors_before: u64,
    /// Those it has when clients and engines are gone, if they are more.
    pub(crate) descriptors_left: Vec<String>,
    pub(crate) sidecar: Ended,
}

/// One phase.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Part {
    /// Requests by what became of them.
    pub(crate) outcomes: BTreeMap<String, u64>,
    pub(crate) requests: u64,
    /// That may never happen.
    pub(crate) never: u64,
    /// Other than right answers and clients that left.
    pub(crate) unwell: u64,
    pub(crate) gave_up: u64,
    /// Failures with all it takes to ask again.
    pub(crate) examples: Vec<String>,
    /// Seconds from the end of the load until nothing was held anywhere; `None`: it never was.
    pub(crate) rest_after_s: Option<f64>,
    /// What was still held then.
    pub(crate) left: Option<String>,
    /// Resident memory of the sidecar at rest, KiB.
    pub(crate) rss_at_rest_kib: u64,
}

/// One reading.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// Seconds since the start of its phase.
    pub(crate) at_s: f64,
    pub(crate) phase: Phase,
    pub(crate) rss_kib: u64,
    pub(crate) descriptors: u64,
    /// Requests under way, as the clients count.
    pub(crate) in_flight: u64,
}
