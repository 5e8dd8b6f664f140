//! Messages to a peer: those that wait to be sent, and how many its owner has not polled yet. Who sends more than is
//! polled is told that it is full, so that nobody's memory fills with messages that nobody reads.

use std::collections::VecDeque;

use bytes::Bytes;

use super::super::limits::{MAIL_BYTES, MAIL_MESSAGES};
use super::super::orders::Order;
use super::State;
use crate::{Error, PeerId, TransferId};

/// A message that waits for the first stream.
#[derive(Debug)]
pub(super) enum Mail {
    Plain(Bytes),
    /// That of a transfer, all of whose bytes are in place.
    After(TransferId),
}

/// What goes to one peer.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    pub(super) queue: VecDeque<Mail>,
    messages: usize,
    bytes: usize,
}

impl Mailbox {
    /// Takes room for a message.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(super) fn reserve(&mut self, len: usize) -> Result<(), Error> {
        if self.messages >= MAIL_MESSAGES || self.bytes + len > MAIL_BYTES {
            return Err(Error::Full("messages that the peer has not polled yet (4096, or 16 MiB)"));
        }
        self.messages += 1;
        self.bytes += len;
        Ok(())
    }

    /// Gives room back.
    pub(super) fn release(&mut self, messages: usize, bytes: usize) {
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl State {
    /// # Errors
    /// [`Error::Closed`], [`Error::UnknownPeer`], [`Error::Full`].
    pub(in super::super) fn notify(&mut self, peer: PeerId, message: Bytes) -> Result<(), Error> {
        self.open()?;
        let known = self.peers.get_mut(&peer).filter(|peer| !peer.ending());
        let known = known.ok_or(Error::UnknownPeer(peer))?;
        known.mailbox.reserve(message.len())?;
        known.mailbox.queue.push_back(Mail::Plain(message));
        let control = known.control();
        self.orders.extend(control.map(Order::Feed));
        Ok(())
    }

    /// A transfer's message may go now.
    pub(super) fn mail_after(&mut self, peer: PeerId, transfer: TransferId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.mailbox.queue.push_back(Mail::After(transfer));
            let control = peer.control();
            self.orders.extend(control.map(Order::Feed));
        }
    }

    /// The peer's owner has polled, or the peer has refused, so many messages.
    pub(in super::super) fn mail_room(&mut self, peer: PeerId, messages: usize, bytes: usize) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.mailbox.release(messages, bytes);
        }
    }
}
