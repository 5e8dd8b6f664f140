//! Device memory that peers have mapped. The driver leaves undefined what happens when it is freed under a mapping, so it is
//! kept until they have closed it, whatever else becomes of them or of the region.
//!
//! How that is known: with what names the memory, a peer gets the writing end of a pipe, and holds it for as long as the
//! mapping. The kernel closes it for a peer that dies. The pipe carries nothing.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::super::progress::FIRST_LOAN;
use crate::memory::Region;

/// What is lent, by the event loop's name for its pipe.
#[derive(Debug)]
pub(super) struct Loans {
    epoll: Arc<Epoll>,
    lent: HashMap<u64, (OwnedFd, Region)>,
    next: u64,
}

impl Loans {
    pub(super) fn new(epoll: Arc<Epoll>) -> Self {
        Self { epoll, lent: HashMap::new(), next: FIRST_LOAN }
    }

    /// Keeps a region for a peer. It goes back when the file that comes back is closed everywhere.
    ///
    /// # Errors
    /// The machine has no descriptors to give.
    pub(super) fn lend(&mut self, region: &Region) -> io::Result<OwnedFd> {
        let (ours, theirs) = io::pipe()?;
        // A hang-up is reported unasked.
        self.epoll.add(&ours, EpollEvent::new(EpollFlags::empty(), self.next))?;
        self.lent.insert(self.next, (ours.into(), region.clone()));
        self.next += 1;
        Ok(theirs.into())
    }

    /// A peer has closed its mapping: of what.
    pub(super) fn returned(&mut self, number: u64) -> Option<Region> {
        // With its last descriptor, the pipe leaves the event loop.
        self.lent.remove(&number).map(|(_, region)| region)
    }

    /// Waits for what is left, at most so long. What a peer holds on to beyond that stays allocated until this process ends:
    /// memory is lost then, and nothing else.
    pub(super) fn settle(&mut self, within: Duration) {
        let until = Instant::now() + within;
        for (_, (pipe, region)) in self.lent.drain() {
            if !closed(&pipe, until) {
                std::mem::forget(region);
            }
        }
    }
}

/// Whether all others have closed a pipe by then.
fn closed(pipe: &OwnedFd, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::empty())], timeout) {
            Err(Errno::EINTR) => {}
            found => return found != Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use nix::sys::epoll::{EpollCreateFlags, EpollTimeout};

    use super::*;
    use crate::memory::Arena;

    fn loans() -> (Arc<Epoll>, Loans, Region) {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap());
        // Any region will do.
        let region = Arena::create("loan", NonZeroUsize::new(4096).unwrap()).unwrap();
        (Arc::clone(&epoll), Loans::new(epoll), region)
    }

    fn told(epoll: &Epoll) -> Option<u64> {
        let mut events = [EpollEvent::empty()];
        (epoll.wait(&mut events, EpollTimeout::ZERO).unwrap() == 1).then(|| events[0].data())
    }

    #[test]
    fn a_loan_goes_back_when_the_last_copy_of_its_file_is_closed() {
        let (epoll, mut loans, region) = loans();
        let (one, other) = (loans.lend(&region).unwrap(), loans.lend(&region).unwrap());
        let copy = one.try_clone().unwrap();
        drop(one);
        assert_eq!(told(&epoll), None);
        drop(copy);
        assert_eq!(told(&epoll), Some(FIRST_LOAN));
        assert!(loans.returned(FIRST_LOAN).is_some() && loans.returned(FIRST_LOAN).is_none());
        assert_eq!((told(&epoll), loans.lent.len()), (None, 1));
        drop(other);
        assert_eq!(told(&epoll), Some(FIRST_LOAN + 1));
    }

    #[test]
    fn whoever_writes_into_the_pipe_has_not_given_back() {
        let (epoll, mut loans, region) = loans();
        let file = loans.lend(&region).unwrap();
        nix::unistd::write(&file, b"here it is").unwrap();
        assert_eq!(told(&epoll), None);
    }

    #[test]
    fn at_the_end_what_was_closed_goes_back_and_what_was_not_stays_allocated() {
        let (_epoll, mut loans, region) = loans();
        let count = |region: &Region| Arc::strong_count(region.keep());
        let (held, closed) = (loans.lend(&region).unwrap(), loans.lend(&region).unwrap());
        assert_eq!(count(&region), 3);
        drop(closed);
        loans.settle(Duration::ZERO);
        assert_eq!(count(&region), 2, "the one that is held");
        drop(held);
    }
}
