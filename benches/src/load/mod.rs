//! The load generator: one thread, hand-written connections, and four ways to ask.
//!
//! All of them keep warm-up out of the window, tell the caller through a [`Probe`] when the window opens and closes (the
//! moments at which it reads a proxy's CPU time), and end in bounded time however broken the other side is.

pub mod body;
mod closed;
mod connection;
mod histogram;
mod idle;
mod job;
mod open;
mod parser;
mod streams;
mod tally;

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;

pub use closed::closed;
pub use histogram::{Latencies, Quantiles};
pub use idle::idle;
pub use job::{Job, Leg, Times, Worker};
pub use open::open;
pub use streams::{StreamPlan, streams};
pub use tally::{Summary, Tally};

/// How long answers may take after a window has closed, before what is missing counts as an error: far longer than any
/// proxy that works needs, short enough that one that hangs does not hang the bench.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// How many clients send their first request at the same moment: fewer than any proxy's listen backlog, since a
/// connection that falls out of the backlog comes back only after the kernel's 1 s retry.
const OPEN_TOGETHER: usize = 100;

/// The two ends of a measured window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Warm-up is over; what comes counts.
    Opens,
    /// Nothing counts any more.
    Closes,
}

/// What the caller does at both ends of the window.
pub type Probe<'a> = &'a mut dyn FnMut(Phase);

/// `count` clients, each of which has connected and has got one answer.
///
/// # Errors
/// When one of them has not: there is no point in measuring then.
pub async fn warm(job: &Rc<Job>, count: usize) -> crate::Result<Vec<Worker>> {
    let unmeasured = Rc::new(Tally::default());
    let mut workers = Vec::with_capacity(count);
    while workers.len() < count {
        let mut batch = JoinSet::new();
        for _ in 0..OPEN_TOGETHER.min(count - workers.len()) {
            let mut worker = Worker::new(job);
            let unmeasured = Rc::clone(&unmeasured);
            batch.spawn_local(async move {
                worker.once(std::time::Instant::now(), &unmeasured).await.map(|_| worker)
            });
        }
        let opened = tokio::time::timeout(DRAIN_LIMIT, async {
            let mut opened = Vec::new();
            while let Some(joined) = batch.join_next().await {
                opened.push(joined.map_err(|error| error.to_string())??);
            }
            Ok::<_, String>(opened)
        })
        .await
        .map_err(|_| format!("warm-up: no answer within {} s", DRAIN_LIMIT.as_secs()))?
        .map_err(|error| format!("warm-up: {error}"))?;
        workers.extend(opened);
    }
    Ok(workers)
}

/// Waits for clients to finish; what is not finished in time is counted as errors and dropped.
async fn drain(mut clients: JoinSet<()>, tally: &Tally) {
    let all = async { while clients.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_LIMIT, all).await.is_err() {
        for _ in 0..clients.len() {
            tally.request(Err(format!("no answer within {} s after the window", DRAIN_LIMIT.as_secs())));
        }
    }
}
