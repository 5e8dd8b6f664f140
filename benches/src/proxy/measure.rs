//! One measurement: a cell's load on one side, with the CPU time of the proxy read at both ends of the window. And the
//! memory of each proxy, empty and with 2,000 streams that wait.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::fleet::Fleet;
use super::plan::{Arrivals, Cell, SMALL, Streaming};
use super::sides::{Role, Side};
use crate::load::{self, Phase, StreamPlan, Summary};
use crate::num::{float, float_len};
use crate::procfs::{self, Memory};
use crate::{Error, Result};

/// Connections that an open loop begins with; more are opened when all are busy.
const OPEN_LOOP_CONNECTIONS: usize = 8;

/// Streams that wait while a proxy's memory is read: what one sidecar is asked to hold at most.
pub(super) const IDLE_STREAMS: usize = 2_000;

/// One frame at once, the next long after the memory has been read.
const IDLE_PACE: Streaming = Streaming { frames: 2, pace_us: 120_000_000 };

/// Connections that warm a proxy up before its idle memory is read: a proxy that has never served says little.
const WARM_CONNECTIONS: usize = 32;

/// How long a proxy is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(300);

/// One measurement, as it goes into the JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// The cell's name.
    pub cell: String,
    /// The side's name.
    pub side: String,
    /// Which round, from 0.
    pub round: u32,
    /// Length of the window, seconds, the wait for the last answers included.
    pub elapsed_s: f64,
    /// CPU time of the proxy in it, seconds; `None` without a proxy or when its process is not known.
    pub cpu_s: Option<f64>,
    /// CPU time of the load generator in it, seconds: near the window's length means that it was the limit itself.
    pub generator_cpu_s: f64,
    /// Counts and latencies.
    #[serde(flatten)]
    pub summary: Summary,
}

/// Memory of one proxy, KiB.
#[derive(Debug, Clone, Serialize)]
pub struct MemorySample {
    /// The side's name.
    pub side: String,
    /// Resident after a short warm-up, with nothing to do.
    pub idle_kib: u64,
    /// Resident with [`IDLE_STREAMS`] open streams that wait.
    pub streams_kib: u64,
    /// What one of these streams adds, its request body's own bytes not counted.
    pub per_stream_kib: f64,
    /// Resident at the end of the whole run, idle again; 0 until then.
    pub after_kib: u64,
    /// The most that was resident at any time of the run; 0 until its end.
    pub peak_kib: u64,
}

/// CPU times at both ends of a window.
#[derive(Debug, Default)]
pub(crate) struct Window {
    ends: [Option<(Instant, Option<f64>, f64)>; 2],
    failed: Option<Error>,
}

impl Window {
    /// Reads them, at either end.
    pub(crate) fn probe(&mut self, phase: Phase, pid: Option<u32>) {
        let read =
            || Ok((pid.map(procfs::cpu_seconds).transpose()?, procfs::cpu_seconds(std::process::id())?));
        match read() {
            Ok((proxy, own)) => {
                self.ends[usize::from(phase == Phase::Closes)] = Some((Instant::now(), proxy, own));
            }
            Err(error) => self.failed = Some(error),
        }
    }

    /// Seconds between the ends: elapsed, CPU of the proxy, CPU of this process.
    ///
    /// # Errors
    /// When a process was gone, or the window has not both ends.
    pub(crate) fn lengths(self) -> Result<(f64, Option<f64>, f64)> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let [Some(open), Some(close)] = self.ends else {
            return Err("the window never closed".into());
        };
        let proxy = open.1.zip(close.1).map(|(before, after)| after - before);
        Ok(((close.0 - open.0).as_secs_f64(), proxy, close.2 - open.2))
    }
}

/// Measures `side` once. Wrong answers are counted in the sample.
///
/// # Errors
/// When it could not be measured at all.
pub(super) async fn sample(fleet: &Fleet, cell: &Cell, side: &Side, round: u32) -> Result<Sample> {
    let job = fleet.job(side, cell);
    let mut window = Window::default();
    let mut probe = |phase| window.probe(phase, side.pid);
    let tally = match cell.arrivals {
        Arrivals::Closed(connections) => {
            let workers = load::warm(&job, connections).await?;
            load::closed(workers, cell.window, &mut probe).await
        }
        Arrivals::Open(rate) => {
            let workers = load::warm(&job, OPEN_LOOP_CONNECTIONS).await?;
            load::open(&job, workers, rate, cell.window, &mut probe).await?
        }
        Arrivals::Streams(streams) => {
            let length = cell.streaming.map_or(Duration::ZERO, Streaming::length);
            let plan = StreamPlan { streams, length, window: cell.window };
            load::streams(&job, plan, &mut probe).await
        }
    };
    let (elapsed_s, cpu_s, generator_cpu_s) = window.lengths()?;
    let summary = tally.summary();
    Ok(Sample {
        cell: cell.name.clone(),
        side: side.name.clone(),
        round,
        elapsed_s,
        cpu_s,
        generator_cpu_s,
        summary,
    })
}

/// A side that could not be measured, as a sample that says why.
pub(super) fn failed(cell: &Cell, side: &Side, round: u32, error: &Error) -> Sample {
    let summary = Summary { errors: 1, first_error: Some(error.to_string()), ..Summary::default() };
    let (cell, side) = (cell.name.clone(), side.name.clone());
    Sample { cell, side, round, elapsed_s: 0.0, cpu_s: None, generator_cpu_s: 0.0, summary }
}

/// Whether the memory of `side` is measured: once for each proxy, on the way it is compared.
pub(super) fn has_memory(side: &Side) -> bool {
    side.pid.is_some() && (side.split || side.role == Role::Forwarder)
}

/// Reads the memory of a proxy that has just been started.
///
/// # Errors
/// When it cannot hold the streams, or its process is gone.
pub(super) async fn memory(fleet: &Fleet, side: &Side) -> Result<MemorySample> {
    let pid = side.pid.ok_or("a side without a process has no memory")?;
    let job = fleet.stream_job(side, SMALL, Streaming { frames: 2, pace_us: 0 });
    drop(load::warm(&job, WARM_CONNECTIONS).await?);
    tokio::time::sleep(SETTLE).await;
    let idle = procfs::memory(pid)?;
    let job = fleet.stream_job(side, SMALL, IDLE_PACE);
    let mut open: Option<Result<Memory>> = None;
    load::idle(&job, IDLE_STREAMS, &mut |phase| {
        if phase == Phase::Closes {
            open = Some(procfs::memory(pid));
        }
    })
    .await?;
    let open = open.ok_or("the window never closed")??;
    let added_kib = float(open.rss_kib) - float(idle.rss_kib);
    Ok(MemorySample {
        side: side.name.clone(),
        idle_kib: idle.rss_kib,
        streams_kib: open.rss_kib,
        per_stream_kib: added_kib / float_len(IDLE_STREAMS) - float_len(SMALL) / 1024.0,
        after_kib: 0,
        peak_kib: 0,
    })
}

/// Completes a memory sample at the end of the run.
///
/// # Errors
/// When the process is gone.
pub(super) fn memory_after(sample: &mut MemorySample, pid: u32) -> Result<()> {
    let memory = procfs::memory(pid)?;
    sample.after_kib = memory.rss_kib;
    sample.peak_kib = memory.peak_kib;
    Ok(())
}
