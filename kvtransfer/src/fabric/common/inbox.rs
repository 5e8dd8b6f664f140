//! What callers want of a progress thread, which sleeps on a descriptor: the [protocol](kvferry_inbox), and an eventfd as
//! its bell.

use std::os::fd::{AsFd, BorrowedFd};

use kvferry_inbox::Bell;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Error;

/// Orders of the type `C`.
pub(crate) type Inbox<C> = kvferry_inbox::Inbox<C, Doorbell>;

/// Readable once it is rung, until it is silenced.
#[derive(Debug)]
pub(crate) struct Doorbell(EventFd);

impl Doorbell {
    /// # Errors
    /// If the process can have no more descriptors.
    pub(crate) fn new() -> Result<Self, Error> {
        let made = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        made.map(Self).map_err(|errno| Error::System("eventfd", errno as i32))
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Bell for Doorbell {
    fn ring(&self) {
        // It fails only if the counter is full: it is readable then.
        self.0.write(1).ok();
    }

    fn silence(&self) {
        // Nothing there is as good as a count.
        self.0.read().ok();
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn readable<C>(inbox: &Inbox<C>) -> bool {
        poll(&mut [PollFd::new(inbox.bell().as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn its_descriptor_is_readable_once_a_sleeper_has_something_to_do_until_it_is_woken() {
        let inbox = Inbox::new(Doorbell::new().unwrap());
        inbox.push(1);
        assert!(!readable(&inbox) && !inbox.sleep(), "there is something to be done");
        assert_eq!(inbox.take(), [1]);
        assert!(inbox.sleep() && !readable(&inbox));
        inbox.push(2);
        assert!(readable(&inbox));
        inbox.woken();
        assert!(!readable(&inbox));
    }
}
