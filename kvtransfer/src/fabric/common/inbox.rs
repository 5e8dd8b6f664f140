//! What callers want of a progress thread, in order. The thread is woken only if it sleeps, and whoever waits for an answer
//! when it ends hears that nobody will give it.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Error;

/// Orders of the type `C`.
#[derive(Debug)]
pub(crate) struct Inbox<C> {
    queue: Mutex<Queue<C>>,
    wake: EventFd,
}

#[derive(Debug)]
struct Queue<C> {
    orders: Vec<C>,
    asleep: bool,
    closed: bool,
}

impl<C> Inbox<C> {
    /// An empty one.
    ///
    /// # Errors
    /// If the process can have no more descriptors.
    pub(crate) fn new() -> Result<Self, Error> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System("eventfd", errno as i32))?;
        let queue = Mutex::new(Queue { orders: Vec::new(), asleep: false, closed: false });
        Ok(Self { queue, wake })
    }

    /// Adds an order. Once closed, it is dropped.
    pub(crate) fn push(&self, order: C) {
        let mut queue = self.queue();
        if queue.closed {
            return;
        }
        queue.orders.push(order);
        if std::mem::take(&mut queue.asleep) {
            // It fails only if the counter is full: the thread is awake then.
            self.wake.write(1).ok();
        }
    }

    /// All that is to be done.
    pub(crate) fn take(&self) -> Vec<C> {
        std::mem::take(&mut self.queue().orders)
    }

    /// Takes out what `wanted` accepts, in order, and leaves the rest.
    pub(crate) fn take_if(&self, wanted: impl FnMut(&mut C) -> bool) -> Vec<C> {
        self.queue().orders.extract_if(.., wanted).collect()
    }

    /// Whether there is nothing to be done; if so, [`wake_fd`](Self::wake_fd) is readable once there is.
    pub(crate) fn sleep(&self) -> bool {
        let mut queue = self.queue();
        queue.asleep = queue.orders.is_empty();
        queue.asleep
    }

    /// The thread is awake.
    pub(crate) fn woken(&self) {
        self.queue().asleep = false;
        // Nothing there is as good as a count.
        self.wake.read().ok();
    }

    /// The thread has ended.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.orders.clear();
    }

    /// See [`sleep`](Self::sleep).
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn queue(&self) -> MutexGuard<'_, Queue<C>> {
        // Every change of it is one call of a vector, so it is whole even after a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn readable<C>(inbox: &Inbox<C>) -> bool {
        poll(&mut [PollFd::new(inbox.wake_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_sleeper_is_woken_and_nobody_else() {
        let inbox = Inbox::new().unwrap();
        inbox.push(1);
        assert!(!readable(&inbox) && !inbox.sleep(), "there is something to be done");
        assert_eq!(inbox.take(), [1]);
        assert!(inbox.sleep() && !readable(&inbox));
        inbox.push(2);
        assert!(readable(&inbox));
        inbox.woken();
        assert!(!readable(&inbox));
    }

    #[test]
    fn whoever_waits_for_an_answer_hears_that_nobody_gives_it() {
        let inbox: Inbox<SyncSender<()>> = Inbox::new().unwrap();
        let ((first, waits), (second, waits_too)) = (sync_channel(1), sync_channel(1));
        inbox.push(first);
        inbox.close();
        inbox.push(second);
        assert!(waits.recv().is_err() && waits_too.recv().is_err());
    }

    #[test]
    fn some_can_be_taken_out_of_turn() {
        let inbox = Inbox::new().unwrap();
        (0..4).for_each(|number| inbox.push(number));
        let taken = inbox.take_if(|number| *number % 2 == 1);
        assert_eq!((taken, inbox.take()), (vec![1, 3], vec![0, 2]));
    }
}
