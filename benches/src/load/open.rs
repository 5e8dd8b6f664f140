//! Open loop: requests start by the clock, whether earlier ones are answered or not, and latency counts from the
//! scheduled time. A proxy that stalls is charged for everything that waited meanwhile (no coordinated omission).

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use super::{Job, Phase, Probe, Tally, Worker, drain};

/// The most requests under way: a proxy that falls so far behind has failed the cell, and more would only take memory.
const MAX_UNDER_WAY: usize = 2_000;

/// Starts `rate` requests a second for `window`. `workers` are idle connections to begin with; more are opened when all
/// are busy.
///
/// # Errors
/// When the kernel gives no timer.
pub async fn open(
    job: &Rc<Job>,
    workers: Vec<Worker>,
    rate: u32,
    window: Duration,
    probe: Probe<'_>,
) -> crate::Result<Rc<Tally>> {
    let tally = Rc::new(Tally::default());
    let idle = Rc::new(RefCell::new(workers));
    let interval = Duration::from_secs(1) / rate.max(1);
    tally.set_active(true);
    probe(Phase::Opens);
    // The runtime's own timers tick in milliseconds, many times a loopback request; the kernel's do not.
    let ticks = Ticks::every(interval)?;
    let begin = Instant::now();
    let mut due = begin;
    let mut clients = JoinSet::new();
    while due + interval <= begin + window {
        for _ in 0..ticks.wait().await? {
            due += interval;
            while clients.try_join_next().is_some() {}
            if clients.len() >= MAX_UNDER_WAY {
                tally.request(Err(format!("{MAX_UNDER_WAY} requests under way: it does not keep up")));
                continue;
            }
            let mut worker = idle.borrow_mut().pop().unwrap_or_else(|| Worker::new(job));
            let (tally, idle, start) = (Rc::clone(&tally), Rc::clone(&idle), due);
            clients.spawn_local(async move {
                let result = worker.once(start, &tally).await;
                if result.is_ok() {
                    idle.borrow_mut().push(worker);
                }
                tally.request(result);
            });
        }
    }
    drain(clients, &tally).await;
    probe(Phase::Closes);
    tally.set_active(false);
    Ok(tally)
}

/// A kernel timer that fires at a fixed rate.
struct Ticks {
    timer: AsyncFd<OwnedFd>,
}

impl Ticks {
    fn every(interval: Duration) -> crate::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let spec = TimeSpec::from_duration(interval);
        timer.set(Expiration::IntervalDelayed(spec, spec), TimerSetTimeFlags::empty())?;
        #[expect(
            deprecated,
            reason = "the new constructor is unsafe, for types whose descriptor may change; an OwnedFd's cannot"
        )]
        let timer = AsyncFd::new(OwnedFd::from(timer))?;
        Ok(Self { timer })
    }

    /// Waits until the timer has fired at least once more; tells how often it has.
    async fn wait(&self) -> crate::Result<u64> {
        let mut fired = [0; 8];
        loop {
            let mut ready = self.timer.readable().await?;
            let read = ready.try_io(|timer| Ok(nix::unistd::read(timer.get_ref(), &mut fired)?));
            if let Ok(read) = read {
                read?;
                return Ok(u64::from_ne_bytes(fired));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ticks_come_at_the_rate_asked_for_on_average() {
        // Before the timer starts: it may be a while before this goes on.
        let begin = Instant::now();
        let ticks = Ticks::every(Duration::from_millis(1)).unwrap();
        let mut fired = 0;
        while fired < 20 {
            fired += ticks.wait().await.unwrap();
        }
        assert!(begin.elapsed() >= Duration::from_millis(20));
    }
}
