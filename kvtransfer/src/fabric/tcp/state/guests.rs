//! Guests: lives that have connected to this side. They are served under leases and send messages; that this side uses
//! them in turn takes a connection of its own, so that two who connect to each other at once need not agree on anything.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::super::limits::{MAIL_BYTES, MAIL_MESSAGES, MAX_STREAMS};
use super::super::orders::{Key, Order};
use super::super::wire::Violation;
use super::State;
use crate::fabric::common::Identity;
use crate::fabric::{Event, Limits};
use crate::{Error, PeerId};

#[derive(Debug, Default)]
pub(super) struct Guest {
    streams: HashSet<Key>,
    /// Messages delivered and not polled, and their bytes.
    unpolled: (usize, usize),
    /// Polled, and not yet told.
    owed: (usize, usize),
    /// Whether the owner of this side has heard of it.
    heard: bool,
}

impl State {
    /// Lets a stream of a guest in. `false` if there are too many.
    pub(in super::super) fn guest_in(&mut self, life: &Arc<Identity>, key: Key) -> bool {
        if !self.guests.contains_key(life) && self.guests.len() >= Limits::MAX_PEERS {
            return false;
        }
        let guest = self.guests.entry(Arc::clone(life)).or_default();
        // Streams of a connection that is being closed may still be there when it comes again.
        guest.streams.len() < 2 * MAX_STREAMS && guest.streams.insert(key)
    }

    /// A stream of a guest is closed.
    pub(in super::super) fn guest_out(&mut self, life: &Arc<Identity>, key: Key, error: Error) {
        let Some(guest) = self.guests.get_mut(life) else { return };
        guest.streams.remove(&key);
        let last = guest.streams.is_empty();
        self.has_left(key);
        let Some(guest) = self.guests.get(life).filter(|_| last) else { return };
        let heard = guest.heard;
        self.guests.remove(life);
        self.heard.retain(|_, known| known != life);
        if let Some(id) = self.numbers.get(life).copied()
            && !self.peers.contains_key(&id)
        {
            self.numbers.remove(life);
            if heard {
                self.event(Event::Lost(id, error));
            }
        }
    }

    /// Closes what a guest has opened: these streams.
    pub(super) fn dismiss(&mut self, id: PeerId) -> HashSet<Key> {
        let life = self.numbers.iter().find(|(_, number)| **number == id).map(|(life, _)| life);
        let Some(guest) = life.and_then(|life| self.guests.get(life)) else { return HashSet::new() };
        self.orders.extend(guest.streams.iter().map(|key| Order::Close(*key, Error::Cancelled)));
        guest.streams.clone()
    }

    /// A guest's message has arrived, and every byte before it.
    ///
    /// # Errors
    /// If it sends more than is polled, which it knows.
    pub(in super::super) fn notified(
        &mut self,
        life: &Arc<Identity>,
        message: Bytes,
    ) -> Result<(), Violation> {
        let id = self.number_of(life);
        let Some(guest) = self.guests.get_mut(life) else { return Ok(()) };
        // Twice, for one that connects again does not know what it sent before.
        if guest.unpolled.0 >= 2 * MAIL_MESSAGES || guest.unpolled.1 + message.len() > 2 * MAIL_BYTES {
            return Err(Violation("more messages than may wait"));
        }
        guest.heard = true;
        guest.unpolled.0 += 1;
        guest.unpolled.1 += message.len();
        self.heard.entry(id).or_insert_with(|| Arc::clone(life));
        self.event(Event::Notified(id, message));
        Ok(())
    }

    /// The owner of this side has taken a message of so many bytes.
    pub(in super::super) fn polled(&mut self, sender: PeerId, len: usize) {
        let Some(guest) = self.heard.get(&sender).and_then(|life| self.guests.get_mut(life)) else { return };
        guest.unpolled.0 = guest.unpolled.0.saturating_sub(1);
        guest.unpolled.1 = guest.unpolled.1.saturating_sub(len);
        guest.owed.0 += 1;
        guest.owed.1 += len;
        // In quarters of what may wait, so that a sender never stands still for want of being told.
        if (guest.owed.0 >= MAIL_MESSAGES / 4 || guest.owed.1 >= MAIL_BYTES / 4)
            && let Some(key) = guest.streams.iter().next()
        {
            let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            self.orders.push(Order::Credit(*key, count(guest.owed.0), count(guest.owed.1)));
            guest.owed = (0, 0);
        }
    }
}
