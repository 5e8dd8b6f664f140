//! What peers say, message by message, in the order in which they said it.

use bytes::Bytes;

use super::Engine;
use super::peer::{Peer, put_together};
use crate::fabric::nixl::limits::{CREDIT_STEP, MESSAGE_OVERHEAD};
use crate::fabric::nixl::message::{MAX_WHOLE, Message, Violation};
use crate::fabric::{Direction, Event, Fabric};
use crate::{Error, PeerId, TransferId};

impl Engine {
    /// Looks at what has come over the control connections. Returns whether anything has.
    pub(super) fn hear(&mut self) -> bool {
        let mut heard = std::mem::take(&mut self.heard);
        let any = self.shared.control.poll(&mut heard) > 0;
        for event in heard.drain(..) {
            match event {
                Event::Notified(id, piece) => self.piece(id, &piece),
                Event::Lost(id, why) => self.lost(id, why),
                Event::Connected(..) | Event::Done(_) | Event::Failed(..) | Event::Freed(_) => {}
            }
        }
        self.heard = heard;
        any
    }

    fn piece(&mut self, id: PeerId, piece: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            // A greeting is short, so it comes in one.
            let mut message = Vec::new();
            return match put_together(&mut message, piece, MAX_WHOLE) {
                Some(true) => self.stranger(id, &message),
                _ => self.shared.control.disconnect(id),
            };
        };
        match put_together(&mut peer.begun, piece, MAX_WHOLE) {
            Some(true) => {
                let message = std::mem::take(&mut peer.begun);
                self.listen(id, &message);
            }
            Some(false) => {}
            None => self.violated(id, Violation("a piece that belongs to no message")),
        }
    }

    fn lost(&mut self, id: PeerId, why: Error) {
        // The caller wanted to meet it, and the order for that may not have been taken yet.
        if !self.peers.contains_key(&id) && self.shared.ledger.pages().peer(id).is_some() {
            self.peers.insert(id, Peer::new([0; 16]));
        }
        self.gone(id, why);
    }

    pub(super) fn listen(&mut self, id: PeerId, message: &[u8]) {
        if let Err(violation) = Message::decode(message).and_then(|message| self.take_in(id, message)) {
            self.violated(id, violation);
        }
    }

    fn violated(&mut self, id: PeerId, Violation(what): Violation) {
        self.lose(id, &Error::Lost(format!("it does not keep to the protocol: {what}")));
    }

    fn take_in(&mut self, id: PeerId, message: Message<'_>) -> Result<(), Violation> {
        let Some(peer) = self.peers.get(&id) else { return Ok(()) };
        match message {
            Message::Part => self.told_to_part(id),
            Message::Bye => self.bye(id),
            Message::Over { id: number, done, message } => self.over(id, number, done, message)?,
            _ if peer.is_parting() => {}
            Message::Hello { from, plugin, info, .. } => self.hello(id, from, plugin, info)?,
            Message::Proven(proof) => self.proven(id, proof),
            Message::Ready => self.ready(id)?,
            _ if peer.is_meeting() => return Err(Violation("something before it was ready")),
            Message::Ask { id: number, direction, token, checksum, count, part } => {
                self.asked(id, number, direction, token, checksum, count, part)?;
            }
            Message::More { id: number, part } => self.asked_more(id, number, part)?,
            Message::Never(number) => self.asked_no_more(id, number),
            Message::Key { region, at, key } => self.learn(id, region, at, key)?,
            Message::Forget(region) => self.unlearn(id, region),
            Message::Go(number) => self.go(id, TransferId(number))?,
            Message::No(number, reason) => self.answered_no(id, TransferId(number), reason)?,
            Message::Stop(number, reason) => self.told_to_stop(id, TransferId(number), reason),
            Message::Sums { id: number, direction: Direction::Read, part } => {
                self.sums_of_mine(id, TransferId(number), part)?;
            }
            Message::Sums { id: number, direction: Direction::Write, part } => self.sums(id, number, part)?,
            Message::Verdict { id: number, wrong } => self.judged(id, TransferId(number), wrong)?,
            Message::Notify(message) => self.message_for_caller(id, Bytes::copy_from_slice(message)),
            Message::Credit(weight) => {
                if let Some(known) = self.shared.ledger.pages().peer(id) {
                    let weight = usize::try_from(weight).unwrap_or(usize::MAX);
                    known.unpolled = known.unpolled.saturating_sub(weight);
                }
            }
        }
        Ok(())
    }

    /// A message of the peer's for this side's caller.
    pub(super) fn message_for_caller(&mut self, id: PeerId, message: Bytes) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.owed += message.len() + MESSAGE_OVERHEAD;
        self.shared.ledger.events.push(Event::Notified(id, message));
        self.give_credit_to(id);
    }

    /// Callers have polled: peers that were held back need not be any more.
    pub(super) fn give_credit(&mut self) {
        let owed: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| peer.owed >= CREDIT_STEP).map(|(id, _)| *id).collect();
        for id in owed {
            self.give_credit_to(id);
        }
    }

    fn give_credit_to(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.owed >= CREDIT_STEP && !self.shared.ledger.events.is_full() {
            let weight = std::mem::take(&mut peer.owed);
            self.say(id, &Message::Credit(u64::try_from(weight).unwrap_or(u64::MAX)));
        }
    }
}
