//! What is due when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Core;
use crate::lease::Refused;
use crate::{Error, PeerId, Token, TransferId};

/// How long the listener rests when the process has no more descriptors: others are freed meanwhile, or not.
pub(super) const REST: Duration = Duration::from_millis(100);

/// How often this side knocks where too many others do.
pub(super) const KNOCK_AGAIN: Duration = Duration::from_millis(10);

/// What to look after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A transfer's deadline.
    Transfer(TransferId),
    /// A lease's.
    Lease(Token),
    /// Whoever knocked should have said who it is.
    Guest(u64),
    /// The peer should have let this side in.
    Meeting(PeerId),
    /// Time to knock once more.
    Knock(PeerId),
    /// The peer should have stopped the writing of that transfer.
    Unwritten(PeerId, TransferId),
    /// The peer should have stopped reading for that request of its.
    Unread(PeerId, u64),
    /// The listener has rested.
    Listen,
}

/// A moment and a number, so that two at the same moment differ.
pub(super) type Key = (Instant, u64);

#[derive(Debug, Default)]
pub(in super::super) struct Timers {
    due: BTreeMap<Key, Due>,
    next: u64,
}

impl Timers {
    pub(super) fn add(&mut self, at: Instant, due: Due) -> Key {
        let key = (at, self.next);
        self.next += 1;
        self.due.insert(key, due);
        key
    }

    pub(super) fn remove(&mut self, key: Option<Key>) {
        if let Some(key) = key {
            self.due.remove(&key);
        }
    }

    /// The earliest moment.
    pub(in super::super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&mut self, now: Instant) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

impl Core {
    /// Does what is due.
    pub(in super::super) fn look_at_clock(&mut self, now: Instant) {
        while let Some(due) = self.timers.take(now) {
            match due {
                Due::Transfer(transfer) => self.give_up(transfer, Error::Deadline),
                Due::Lease(token) => self.end_lease(token, Refused::Expired),
                Due::Guest(link) => {
                    if let Some(guest) = self.guests.remove(&link) {
                        guest.sever(&self.epoll);
                    }
                }
                Due::Meeting(peer) => self.end_meeting(peer),
                Due::Knock(peer) => self.knock(peer),
                Due::Unwritten(peer, transfer) => {
                    if self.transfers.contains_key(&transfer) {
                        self.lose(peer, &did_not_stop());
                    }
                }
                Due::Unread(id, number) => {
                    if self.peers.get(&id).is_some_and(|peer| peer.reading.contains_key(&number)) {
                        self.lose(id, &did_not_stop());
                    }
                }
                Due::Listen => self.listen_again(),
            }
        }
    }
}

fn did_not_stop() -> Error {
    Error::Lost("it did not stop in time when it was told to".into())
}
