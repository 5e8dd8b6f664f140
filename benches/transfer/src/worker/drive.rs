//! How a window of work is timed, and what is kept of it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use kvferry_bench_common::num::nanos;
use kvferry_bench_common::{Result, procfs};

use crate::figures::nanoseconds;
use crate::protocol::Ran;

/// What a window adds up.
pub(super) struct Meter {
    begin: Instant,
    cpu: f64,
    latencies: Histogram<u64>,
    ran: Ran,
}

impl Meter {
    pub(super) fn begin() -> Result<Self> {
        let ran = Ran {
            seconds: 0.0,
            bytes: 0,
            blocks: 0,
            transfers: 0,
            cpu_s: 0.0,
            submit_s: 0.0,
            latencies: vec![],
        };
        let latencies = nanoseconds();
        let cpu = procfs::cpu_seconds(std::process::id())?;
        Ok(Self { begin: Instant::now(), cpu, latencies, ran })
    }

    /// Whether the window still lasts.
    pub(super) fn lasts(&self, window: Duration) -> bool {
        self.begin.elapsed() < window
    }

    /// Whether nothing was done yet.
    pub(super) fn is_new(&self) -> bool {
        self.ran.transfers == 0
    }

    /// A transfer took `submit` to be submitted.
    pub(super) fn submitted(&mut self, submit: Duration) {
        self.ran.submit_s += submit.as_secs_f64();
    }

    /// A transfer of so much is done, `latency` after its submission.
    pub(super) fn done(&mut self, bytes: u64, blocks: u64, latency: Duration) {
        self.latencies.saturating_record(nanos(latency));
        self.many(1, bytes, blocks);
    }

    /// So many are done; nobody looked at each.
    pub(super) fn many(&mut self, transfers: u64, bytes: u64, blocks: u64) {
        self.ran.transfers += transfers;
        self.ran.bytes += bytes;
        self.ran.blocks += blocks;
    }

    pub(super) fn end(mut self) -> Result<Ran> {
        self.ran.seconds = self.begin.elapsed().as_secs_f64();
        self.ran.cpu_s = procfs::cpu_seconds(std::process::id())? - self.cpu;
        let counted = self.latencies.iter_recorded();
        self.ran.latencies = counted.map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        Ok(self.ran)
    }
}
