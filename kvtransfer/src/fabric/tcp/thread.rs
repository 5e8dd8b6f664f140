//! A progress thread: when it sleeps, what wakes it, and when it leaves its engine's work to callers.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvferry_inbox::Bell;
use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use super::attention::ASIDE;
use super::engine::EVENTS;
use super::limits::TICK;
use super::shared::{Shared, Worker};

/// If a progress thread panics, everything ends: callers are told rather than left to wait for what nobody does.
struct Collapse<'a>(&'a Shared);

impl Drop for Collapse<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stopping.store(true, Ordering::SeqCst);
            self.0.workers.iter().for_each(|worker| worker.orders().call());
            self.0.with(|state| {
                state.close();
                state.finish(Instant::now());
            });
        }
    }
}

/// A progress thread's life.
pub(super) fn run(shared: &Shared, index: usize) {
    let _collapse = Collapse(shared);
    let worker = &shared.workers[index];
    let mut events = [EpollEvent::empty(); EVENTS];
    let (mut helped, mut active, mut due) = (0, Instant::now(), None);
    while !shared.stopping.load(Ordering::SeqCst) {
        if worker.helped.since(&mut helped) && shared.attention.is_wanted() && stands_aside(worker, due) {
            continue;
        }
        // First others learn that they must kick, then this thread looks whether there is something to do.
        let mut idle = worker.orders().sleep() && !shared.stopping.load(Ordering::SeqCst);
        let now = Instant::now();
        if idle {
            due = worker.engine().arm(shared, worker, now);
            idle = due.is_none_or(|due| due > now);
        }
        let awake = (active + shared.options.busy_poll).saturating_duration_since(now);
        let count = await_sockets(worker, &mut events, idle, awake);
        worker.orders().get_up();
        let now = Instant::now();
        if count > 0 {
            active = now;
        }
        let mut engine = worker.engine();
        engine.notice(&events[..count], shared, now);
        engine.look(shared, now);
        engine.round(shared, worker, now);
    }
}

/// Leaves the sockets to callers, who have come a moment ago. `false` if somebody kicks or it is time for something else.
fn stands_aside(worker: &Worker, due: Option<Instant>) -> bool {
    worker.orders().bell().silence();
    // One of those may have been about work that is left; whoever is at work right now will kick if there is some.
    if !worker.orders().sleep() || worker.is_left_work() {
        worker.orders().get_up();
        return false;
    }
    let left = due.map_or(ASIDE, |due| due.saturating_duration_since(Instant::now()));
    let undisturbed = left >= ASIDE && !worker.await_kick(ASIDE);
    worker.orders().get_up();
    undisturbed
}

/// What the sockets say, once they say something or the clock does; at once, if not `idle`. For so long as it is to stay
/// `awake` the thread does not sleep.
fn await_sockets(worker: &Worker, events: &mut [EpollEvent], idle: bool, awake: Duration) -> usize {
    if idle && !awake.is_zero() {
        let begin = Instant::now();
        while begin.elapsed() < awake {
            match worker.epoll.wait(events, EpollTimeout::ZERO) {
                Ok(0) if worker.orders().is_empty() => std::hint::spin_loop(),
                Ok(count) => return count,
                Err(_) => break,
            }
        }
    }
    match worker.epoll.wait(events, if idle { EpollTimeout::NONE } else { EpollTimeout::ZERO }) {
        Ok(count) => count,
        Err(Errno::EINTR) => 0,
        // Nothing can be waited for: better to go on in small steps than to hang.
        Err(_) => {
            std::thread::sleep(TICK);
            0
        }
    }
}
