//! Events that wait to be polled, and a descriptor that is readable while there are some.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use kvferry_transfer::Error;
use kvferry_transfer::fabric::Event;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A counter that can be waited for.
pub(crate) fn counter() -> Result<EventFd, Error> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| Error::System("eventfd", errno as i32))
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: VecDeque<Event>,
}

impl Queue {
    /// Adds one; `wake` is this queue's counter.
    pub(crate) fn push(&mut self, event: Event, wake: &EventFd) {
        self.events.push_back(event);
        if self.events.len() == 1 {
            // A counter at 0 takes 1.
            let _ = wake.write(1);
        }
    }

    pub(crate) fn drain(&mut self, into: &mut Vec<Event>, wake: &EventFd) -> usize {
        let count = self.events.len();
        if count > 0 {
            into.extend(self.events.drain(..));
            // It is 1 while there are events.
            let _ = wake.read();
        }
        count
    }
}

pub(crate) fn fd(wake: &EventFd) -> BorrowedFd<'_> {
    wake.as_fd()
}
