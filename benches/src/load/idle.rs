//! Streams that are open and wait: what a proxy keeps in memory for a client whose engine is thinking.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::connection::{Arrival, Connection};
use super::{DRAIN_LIMIT, Job, OPEN_TOGETHER, Phase, Probe};

/// How long open streams are left alone before the probe: buffers that are given back late are not held against anyone.
const SETTLE: Duration = Duration::from_millis(500);

/// Opens `count` streams, waits until each has had its first frame, probes, and hangs up on all of them.
///
/// # Errors
/// When not all of them open within [`DRAIN_LIMIT`] a batch.
pub async fn idle(job: &Rc<Job>, count: usize, probe: Probe<'_>) -> crate::Result<()> {
    let open = Rc::new(Cell::new(0_usize));
    let changed = Rc::new(Notify::new());
    let failed = Rc::new(Cell::new(None));
    let mut clients = JoinSet::new();
    probe(Phase::Opens);
    while clients.len() < count {
        for _ in 0..OPEN_TOGETHER.min(count - clients.len()) {
            let (job, open, changed, failed) =
                (Rc::clone(job), Rc::clone(&open), Rc::clone(&changed), Rc::clone(&failed));
            clients.spawn_local(async move {
                let result = hold(&job, &open, &changed).await;
                failed.set(Some(result.err().unwrap_or_else(|| "ended by itself".to_owned())));
                changed.notify_one();
            });
        }
        let deadline = Instant::now() + DRAIN_LIMIT;
        while open.get() < clients.len() {
            if let Some(error) = failed.take() {
                return Err(format!("idle streams: {error}").into());
            }
            if tokio::time::timeout_at(deadline.into(), changed.notified()).await.is_err() {
                let missing = clients.len() - open.get();
                return Err(format!("idle streams: {missing} of {count} got no first frame").into());
            }
        }
    }
    tokio::time::sleep(SETTLE).await;
    probe(Phase::Closes);
    match failed.take() {
        Some(error) => Err(format!("idle streams: {error}").into()),
        None => Ok(()),
    }
}

/// All legs of the job; never returns while the last one's stream stays open.
async fn hold(job: &Job, open: &Cell<usize>, changed: &Notify) -> Result<(), String> {
    for leg in &job.legs {
        let mut seen = false;
        let mut observe = |_: Arrival<'_>| {
            if !seen {
                seen = true;
                open.set(open.get() + 1);
                changed.notify_one();
            }
        };
        let answer = Connection::new(leg.address).exchange(&leg.request, &mut observe).await?;
        if answer.status != 200 {
            return Err(format!("status {}", answer.status));
        }
    }
    Ok(())
}
