//! How a thread waits for what nothing tells the end of: eagerly at first, then with naps, then with longer ones.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::limits::{DOZE, EAGER_ROUNDS, LONGEST_SLEEP, NAP, NAPS};
use crate::fabric::common::Inbox;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Rounds in a row in which nothing has happened.
    idle: u32,
}

impl Patience {
    /// Something has happened.
    pub(super) fn begin_anew(&mut self) {
        self.idle = 0;
    }

    /// Nothing has. If something is `under_way`, it must be looked at again soon; else sleeps until somebody wants something,
    /// another descriptor is readable, or the time comes.
    pub(super) fn rest<C>(
        &mut self,
        under_way: bool,
        inbox: &Inbox<C>,
        other: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
    ) {
        self.idle = self.idle.saturating_add(1);
        match self.idle {
            _ if !under_way => sleep(LONGEST_SLEEP, inbox, other, until),
            0..EAGER_ROUNDS => std::thread::yield_now(),
            EAGER_ROUNDS..NAPS => std::thread::sleep(NAP),
            _ => sleep(DOZE, inbox, other, until),
        }
    }
}

fn sleep<C>(most: Duration, inbox: &Inbox<C>, other: Option<BorrowedFd<'_>>, until: Option<Instant>) {
    if !inbox.sleep() {
        return;
    }
    let left = until.map_or(most, |until| until.saturating_duration_since(Instant::now()).min(most));
    // The kernel counts in whole milliseconds: rather late than early.
    let millis = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    let descriptors = [Some(inbox.bell().as_fd()), other].into_iter().flatten();
    let mut watched: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // Woken for nothing, at worst.
    poll(&mut watched, timeout).ok();
    inbox.woken();
}
