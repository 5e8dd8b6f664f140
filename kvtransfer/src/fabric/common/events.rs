//! The queue that events wait in until they are polled. It keeps two promises: its descriptor is readable exactly while
//! there are events and nobody is at them, and peers cannot fill this process' memory with messages that nobody polls.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::Error;
use crate::fabric::Event;

/// Bytes of messages that may wait. Beyond, fabrics read no more from their peers until some are polled: a thousand of the
/// longest, or hundreds of thousands of usual ones.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// What a message weighs besides its bytes: about what its event takes in the queue.
const MESSAGE_OVERHEAD: usize = 64;

/// Events, in order.
#[derive(Debug)]
pub(crate) struct EventQueue {
    state: Mutex<State>,
    /// Readable while `state.raised`; both change while `state` is held, so the two never differ.
    wake: EventFd,
}

/// Somebody is polling and takes what comes meanwhile: nobody needs to be woken for it.
#[derive(Debug)]
pub(crate) struct Attended<'a>(&'a EventQueue);

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.attended -= 1;
        self.0.raise(&mut state);
    }
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    /// Bytes that waiting messages weigh.
    messages: usize,
    /// Transfers whose end waits here.
    ends: usize,
    /// How many are polling.
    attended: usize,
    raised: bool,
}

/// What polling took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Events.
    pub(crate) count: usize,
    /// Whether peers were held back until now.
    pub(crate) was_full: bool,
}

impl EventQueue {
    /// An empty one.
    ///
    /// # Errors
    /// If the process can have no more descriptors.
    pub(crate) fn new() -> Result<Self, Error> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::System("eventfd", errno as i32))?;
        Ok(Self { state: Mutex::default(), wake })
    }

    /// Adds an event.
    pub(crate) fn push(&self, event: Event) {
        let mut state = self.state();
        match &event {
            Event::Notified(_, message) => state.messages += message.len() + MESSAGE_OVERHEAD,
            Event::Done(_) | Event::Failed(..) => state.ends += 1,
            Event::Connected(..) | Event::Lost(..) | Event::Freed(_) => {}
        }
        state.events.push_back(event);
        self.raise(&mut state);
    }

    /// Lets the descriptor be, for as long as the answer is kept; whoever has it drains the queue.
    pub(crate) fn attend(&self) -> Attended<'_> {
        self.state().attended += 1;
        Attended(self)
    }

    fn raise(&self, state: &mut State) {
        if state.attended == 0 && !state.events.is_empty() && !std::mem::replace(&mut state.raised, true) {
            let written = self.wake.write(1);
            debug_assert!(written.is_ok(), "a counter at 0 takes 1: {written:?}");
        }
    }

    /// Moves all events to the end of `into`.
    pub(crate) fn drain(&self, into: &mut Vec<Event>) -> Drained {
        let mut state = self.state();
        let drained = Drained { count: state.events.len(), was_full: state.is_full() };
        if drained.count > 0 {
            into.extend(state.events.drain(..));
            (state.messages, state.ends) = (0, 0);
        }
        if std::mem::replace(&mut state.raised, false) {
            let read = self.wake.read();
            debug_assert!(read.is_ok(), "the counter is 1 while it is raised: {read:?}");
        }
        drained
    }

    /// Whether so many messages wait that no more should be taken from peers.
    pub(crate) fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Transfers that have ended, and whose events nobody has polled.
    pub(crate) fn ends(&self) -> usize {
        self.state().ends
    }

    /// Readable while there are events.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the queue")
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.messages >= MAX_WAITING_BYTES
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::{PeerId, TransferId};

    fn readable(queue: &EventQueue) -> bool {
        poll(&mut [PollFd::new(queue.wake_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn its_descriptor_is_readable_exactly_while_there_are_events() {
        let (queue, mut events) = (EventQueue::new().unwrap(), Vec::new());
        assert!(!readable(&queue));
        for round in 1..4 {
            (0..round).for_each(|id| queue.push(Event::Done(TransferId(id))));
            assert!(readable(&queue));
            assert_eq!(queue.ends() as u64, round);
            queue.drain(&mut events);
            assert!(!readable(&queue) && queue.ends() == 0);
        }
        assert_eq!(queue.drain(&mut events).count, 0);
        assert_eq!(events.len(), 1 + 2 + 3);
    }

    #[test]
    fn what_comes_while_somebody_polls_wakes_nobody_unless_it_is_left() {
        let (queue, mut events) = (EventQueue::new().unwrap(), Vec::new());
        let (first, second) = (queue.attend(), queue.attend());
        queue.push(Event::Done(TransferId(0)));
        drop(first);
        assert!(!readable(&queue), "the second is still at it");
        assert_eq!(queue.drain(&mut events).count, 1);
        drop(second);
        assert!(!readable(&queue));
        let third = queue.attend();
        queue.push(Event::Done(TransferId(1)));
        drop(third);
        assert!(readable(&queue), "it was left");
        assert_eq!(queue.drain(&mut events).count, 1);
        assert!(!readable(&queue));
    }

    #[test]
    fn it_says_when_messages_weigh_too_much_until_they_are_polled() {
        let queue = EventQueue::new().unwrap();
        let long = Bytes::from(vec![0; MAX_WAITING_BYTES / 2]);
        queue.push(Event::Notified(PeerId(0), long.clone()));
        assert!(!queue.is_full());
        queue.push(Event::Notified(PeerId(0), long));
        assert!(queue.is_full());
        assert!(queue.drain(&mut Vec::new()).was_full);
        assert!(!queue.is_full());
    }
}
