//! What is due when.

use std::collections::BTreeMap;
use std::time::Instant;

use super::Engine;
use crate::lease::Refused;
use crate::{Error, PeerId, Token, TransferId};

/// What to look after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A transfer's deadline.
    Transfer(TransferId),
    /// A lease's.
    Lease(Token),
    /// The peer should have answered.
    Meeting(PeerId),
    /// What was under way of a transfer should have ended.
    Stuck(TransferId),
    /// The peer should have stopped to move bytes for that request of its.
    Unstopped(PeerId, u64),
    /// The last message to a peer that is parted from should have gone.
    Parting(PeerId),
}

/// A moment and a number, so that two at the same moment differ.
pub(super) type Key = (Instant, u64);

#[derive(Debug, Default)]
pub(super) struct Timers {
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
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    fn take(&mut self, now: Instant) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

impl Engine {
    /// Does what is due.
    pub(super) fn look_at_clock(&mut self, now: Instant) {
        while let Some(due) = self.timers.take(now) {
            match due {
                Due::Transfer(transfer) => self.give_up(transfer, Error::Deadline),
                Due::Lease(token) => {
                    let over = self.shared.state().is_over(token, now);
                    if over && self.shared.end_lease(token) {
                        self.stop_serving(token, Refused::Expired);
                    }
                }
                Due::Meeting(peer) => self.end_meeting(peer),
                Due::Stuck(transfer) => {
                    if let Some(peer) = self.transfers.get(&transfer).map(|transfer| transfer.request.peer) {
                        self.lose_quietly(peer, &did_not_stop());
                    }
                }
                Due::Unstopped(id, number) => {
                    if self.peers.get(&id).is_some_and(|peer| peer.is_served(number)) {
                        self.lose_quietly(id, &did_not_stop());
                    }
                }
                Due::Parting(peer) => self.cut(peer),
            }
        }
    }
}

fn did_not_stop() -> Error {
    Error::Lost("what was under way did not stop in time".into())
}
