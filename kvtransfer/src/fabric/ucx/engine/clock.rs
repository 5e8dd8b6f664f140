//! What is due when.

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

impl Engine {
    /// Does what is due.
    pub(super) fn look_at_clock(&mut self, now: Instant) {
        while let Some(due) = self.timers.take(now) {
            match due {
                Due::Transfer(transfer) => self.give_up(transfer, Error::Deadline),
                Due::Lease(token) => {
                    let over = self.shared.ledger.pages().is_over(token, now);
                    if over && self.shared.ledger.end_lease(token) {
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
