//! Many streams at once: each client reads one paced stream after another, and their starts are spread over a stream's
//! length, so that the number of open streams is constant and the frames do not come in bursts of the bench's making.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Job, Phase, Probe, Tally, Worker};

/// How many streams, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct StreamPlan {
    /// Streams open at any moment.
    pub streams: usize,
    /// How long one stream lasts, by the engine's pace.
    pub length: Duration,
    /// How long is measured, once all of them are open.
    pub window: Duration,
}

/// Runs the plan. Requests count when they end in the window; on the streams open at its end the clients hang up.
pub async fn streams(job: &Rc<Job>, plan: StreamPlan, probe: Probe<'_>) -> Rc<Tally> {
    let tally = Rc::new(Tally::default());
    let begin = Instant::now();
    // A little longer than one stream, so that the last client has begun its first well before the window.
    let opens = begin + plan.length + plan.length / 4;
    let closes = opens + plan.window;
    let mut clients = JoinSet::new();
    for index in 0..plan.streams {
        let (tally, mut worker) = (Rc::clone(&tally), Worker::new(job));
        let share = u32::try_from(index).unwrap_or(u32::MAX);
        let of = u32::try_from(plan.streams).unwrap_or(u32::MAX);
        let first = begin + plan.length.mul_f64(f64::from(share) / f64::from(of));
        clients.spawn_local(async move {
            tokio::time::sleep_until(first.into()).await;
            while Instant::now() < closes {
                let result = worker.once(Instant::now(), &tally).await;
                let failed = result.is_err();
                tally.request(result);
                if failed {
                    break;
                }
            }
        });
    }
    tokio::time::sleep_until(opens.into()).await;
    probe(Phase::Opens);
    tally.set_active(true);
    tokio::time::sleep_until(closes.into()).await;
    tally.set_active(false);
    probe(Phase::Closes);
    drop(clients);
    tally
}
