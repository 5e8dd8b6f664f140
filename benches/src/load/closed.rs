//! Closed loop: each client sends its next request when it has the answer to the last. Good for throughput and for the
//! cost of a request; it says little about latency under load, since a slow proxy is asked less often.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Phase, Probe, Tally, Worker, drain};

/// Runs `workers` for `window` and then to the end of what they have begun. Everything begun in the window counts, and
/// the window closes when the last answer is in: with large bodies what is under way at any moment is a good part of
/// the total, and its CPU time must meet its count.
pub async fn closed(workers: Vec<Worker>, window: Duration, probe: Probe<'_>) -> Rc<Tally> {
    let tally = Rc::new(Tally::default());
    tally.set_active(true);
    probe(Phase::Opens);
    let deadline = Instant::now() + window;
    let mut clients = JoinSet::new();
    for mut worker in workers {
        let tally = Rc::clone(&tally);
        clients.spawn_local(async move {
            loop {
                let start = Instant::now();
                if start >= deadline {
                    break;
                }
                let result = worker.once(start, &tally).await;
                let failed = result.is_err();
                tally.request(result);
                // A proxy that fails at once would otherwise be asked a million times, and look fast.
                if failed {
                    break;
                }
            }
        });
    }
    tokio::time::sleep(window).await;
    drain(clients, &tally).await;
    probe(Phase::Closes);
    tally.set_active(false);
    tally
}
