//! What callers want of the progress thread, in order. It is woken only if it sleeps.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::fabric::Request;
use crate::fabric::common::Identity;
use crate::memory::Region;
use crate::{Error, PeerId, RegionId, Token, TransferId};

/// What to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Make a region known to UCX, and say how that went.
    Register(RegionId, Region, SyncSender<Result<(), Error>>),
    /// Forget it, and say when that is done.
    Deregister(RegionId, SyncSender<()>),
    /// Go to a peer's worker at that address.
    Connect(PeerId, Identity, Vec<u8>),
    /// Part from a peer.
    Disconnect(PeerId),
    /// Look after a lease at its deadline.
    Watch(Token, Instant),
    /// A lease was revoked, and peers use it still.
    Revoked(Token),
    /// Begin a transfer.
    Submit(TransferId, Request),
    /// End it early.
    Cancel(TransferId),
    /// Send a message.
    Notify(PeerId, Bytes),
    /// Peers were held back, and need not be any more.
    Resume,
    /// End everything.
    Close,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: Mutex<Queue>,
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    commands: Vec<Command>,
    asleep: bool,
    closed: bool,
}

impl Inbox {
    /// # Errors
    /// If the process can have no more descriptors.
    pub(super) fn new() -> Result<Self, Error> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System("eventfd", errno as i32))?;
        Ok(Self { queue: Mutex::default(), wake })
    }

    /// Adds a command. Once closed, it is dropped, and whoever waits for an answer hears that nobody will give it.
    pub(super) fn push(&self, command: Command) {
        let mut queue = self.queue();
        if queue.closed {
            return;
        }
        queue.commands.push(command);
        if std::mem::take(&mut queue.asleep) {
            // It fails only if the counter is full: the thread is awake then.
            self.wake.write(1).ok();
        }
    }

    /// All that is to be done.
    pub(super) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut self.queue().commands)
    }

    /// Takes out what `wanted` accepts, in order, and leaves the rest.
    pub(super) fn take_if(&self, wanted: impl FnMut(&mut Command) -> bool) -> Vec<Command> {
        self.queue().commands.extract_if(.., wanted).collect()
    }

    /// Whether there is nothing to be done; if so, [`wake_fd`](Self::wake_fd) is readable once there is.
    pub(super) fn sleep(&self) -> bool {
        let mut queue = self.queue();
        queue.asleep = queue.commands.is_empty();
        queue.asleep
    }

    /// The thread is awake.
    pub(super) fn woken(&self) {
        self.queue().asleep = false;
        // Nothing there is as good as a count.
        self.wake.read().ok();
    }

    /// The thread has ended.
    pub(super) fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        queue.commands.clear();
    }

    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every change of it is one call of a vector, so it is whole even after a panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    fn readable(inbox: &Inbox) -> bool {
        poll(&mut [PollFd::new(inbox.wake_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_sleeper_is_woken_and_nobody_else() {
        let inbox = Inbox::new().unwrap();
        inbox.push(Command::Resume);
        assert!(!readable(&inbox) && !inbox.sleep(), "there is something to be done");
        assert_eq!(inbox.take().len(), 1);
        assert!(inbox.sleep() && !readable(&inbox));
        inbox.push(Command::Resume);
        assert!(readable(&inbox));
        inbox.woken();
        assert!(!readable(&inbox));
    }

    #[test]
    fn whoever_waits_for_an_answer_hears_that_nobody_gives_it() {
        let inbox = Inbox::new().unwrap();
        let ((first, waits), (second, waits_too)) = (sync_channel(1), sync_channel(1));
        inbox.push(Command::Deregister(RegionId(0), first));
        inbox.close();
        inbox.push(Command::Deregister(RegionId(1), second));
        assert!(waits.recv().is_err() && waits_too.recv().is_err());
    }

    #[test]
    fn some_can_be_taken_out_of_turn() {
        let inbox = Inbox::new().unwrap();
        for number in 0..4 {
            inbox.push(Command::Cancel(TransferId(number)));
        }
        let taken = inbox.take_if(|command| matches!(command, Command::Cancel(TransferId(1 | 2))));
        assert_eq!((taken.len(), inbox.take().len()), (2, 2));
    }
}
