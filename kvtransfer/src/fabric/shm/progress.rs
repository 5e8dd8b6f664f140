//! The loop that listens to peers and the clock. It sleeps while nothing happens.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::Inner;
use super::pool::Pool;

/// The event loop's names for what it watches besides connections, which count from [`FIRST_LINK`] on.
pub(super) const LISTENER: u64 = 0;
/// As above: somebody has something for the loop to look at.
pub(super) const NUDGE: u64 = 1;
/// As above.
pub(super) const FIRST_LINK: u64 = 2;
/// As above, for what peers have mapped of devices: more than there can ever be connections.
pub(super) const FIRST_LOAN: u64 = 1 << 63;

/// Events taken at a time.
const BATCH: usize = 64;

/// The longest sleep. Nothing needs it to end; it bounds what a clock that jumps could do.
const LONGEST: Duration = Duration::from_secs(3600);

/// Runs until the fabric is closed.
pub(super) fn run(inner: &Inner) {
    let mut events = [EpollEvent::empty(); BATCH];
    loop {
        let next = inner.core().timers.next();
        let count = match inner.epoll.wait(&mut events, timeout(next)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => unreachable!("an epoll descriptor of ours can be waited for: {errno}"),
        };
        // Freeing a device's memory may wait for the device: not with the lock.
        let mut returned = Vec::new();
        let mut core = inner.core();
        for event in &events[..count] {
            match event.data() {
                LISTENER => core.accept(),
                NUDGE => inner.nudged(),
                loan @ FIRST_LOAN.. => returned.extend(core.returned(loan)),
                link => {
                    let flags = event.events();
                    if flags.contains(EpollFlags::EPOLLOUT) {
                        core.can_send(link);
                    }
                    let ended = flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR);
                    if ended || flags.contains(EpollFlags::EPOLLIN) {
                        core.hear(link, ended);
                    }
                }
            }
        }
        core.look_at_clock(Instant::now());
        let (jobs, closed) = (core.take_small_jobs(), core.closed);
        drop(core);
        drop(returned);
        for job in jobs {
            Pool::work_here(&job, |job| inner.core().ended(job));
        }
        if closed {
            return;
        }
    }
}

/// Until `next`, in the whole milliseconds that the kernel counts in, rather late than early.
fn timeout(next: Option<Instant>) -> EpollTimeout {
    let Some(next) = next else { return EpollTimeout::NONE };
    let left = next.saturating_duration_since(Instant::now()).min(LONGEST);
    let millis = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
    EpollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(EpollTimeout::MAX)
}

/// What a copying thread does.
pub(super) fn copy(inner: &Inner) {
    inner.pool.work(|job| inner.core().ended(job));
}
