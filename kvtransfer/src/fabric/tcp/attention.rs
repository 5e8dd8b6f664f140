//! Who does the work while somebody waits for a short transfer: the one who waits. Handing an answer from a progress
//! thread to its caller wakes two threads one after the other, which for 16 KiB takes as long as all the rest.
//!
//! While nothing but short transfers is under way, what callers sleep on wakes them for sockets as well, and they find
//! their answers themselves by polling. A progress thread that sees callers come stands aside for [`ASIDE`] at a time, and
//! takes over as soon as none has come for so long. Nothing is owed to callers: one that does not come is not waited for.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::shared::lock;
use crate::Error;

/// How long a thread leaves its sockets to callers that were there a moment ago: several round trips on one network, and
/// no more than others would notice if callers stop coming.
pub(super) const ASIDE: Duration = Duration::from_micros(500);

/// What callers sleep on: readable while there are events, and while they are wanted also when a socket has something.
#[derive(Debug)]
pub(super) struct Attention {
    outer: Epoll,
    /// Whether the threads' sockets are in it; the flag that is looked at, and the one that is changed.
    wanted: AtomicBool,
    changing: Mutex<()>,
}

impl Attention {
    /// # Errors
    /// If the process can have no more descriptors.
    pub(super) fn new(events: BorrowedFd<'_>) -> Result<Self, Error> {
        let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Error::System("epoll_create1", errno as i32))?;
        outer
            .add(events, EpollEvent::new(EpollFlags::EPOLLIN, 0))
            .map_err(|errno| Error::System("epoll_ctl", errno as i32))?;
        Ok(Self { outer, wanted: AtomicBool::new(false), changing: Mutex::default() })
    }

    /// For callers to sleep on.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.outer.0.as_fd()
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// From here on sockets wake callers, or do not. If the system refuses, callers wait for threads, as ever.
    pub(super) fn want<'a>(&self, wanted: bool, sockets: impl Iterator<Item = &'a Epoll>) {
        if self.is_wanted() == wanted {
            return;
        }
        let _changing = lock(&self.changing);
        for epoll in sockets {
            let changed = if wanted {
                self.outer.add(&epoll.0, EpollEvent::new(EpollFlags::EPOLLIN, 1))
            } else {
                self.outer.delete(&epoll.0)
            };
            debug_assert!(
                matches!(changed, Ok(()) | Err(Errno::EEXIST | Errno::ENOENT)),
                "descriptors of our own: {changed:?}"
            );
        }
        self.wanted.store(wanted, Ordering::Relaxed);
    }
}

/// Counts how often callers have found something to do, for the thread whose work it was.
#[derive(Debug, Default)]
pub(super) struct Helped(AtomicU64);

impl Helped {
    pub(super) fn once_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether callers came since `seen`, which is brought up to date.
    pub(super) fn since(&self, seen: &mut u64) -> bool {
        let now = self.0.load(Ordering::Relaxed);
        std::mem::replace(seen, now) != now
    }
}
