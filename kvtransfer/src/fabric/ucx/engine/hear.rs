//! What peers say, message by message, in the order in which they said it.

use std::mem;

use bytes::Bytes;

use super::Engine;
use super::part::it_has_parted;
use super::peer::Stage;
use crate::fabric::ucx::limits::{CREDIT_STEP, MAX_EARLY, MESSAGE_OVERHEAD};
use crate::fabric::ucx::message::{Envelope, Message, Violation};
use crate::fabric::{Direction, Event};
use crate::memory::MAX_REGIONS;
use crate::{Error, PeerId, TransferId};

impl Engine {
    /// Looks at what has happened. Returns whether anything has.
    pub(super) fn hear(&mut self) -> bool {
        let mut news = mem::take(&mut self.news);
        self.worker.news(&mut news);
        let any = !news.is_empty();
        self.all_finished(news.finished.drain(..));
        // Each may post more, which may end at once again; those wait for the next turn.
        let ended = mem::take(&mut self.ended);
        self.all_finished(ended.into_iter());
        for bytes in news.arrived.drain(..) {
            self.open_envelope(&bytes);
        }
        for (peer, status) in news.broken.drain(..) {
            self.broke(PeerId(peer), status);
        }
        // Empty again, with the room that it has.
        self.news = news;
        any
    }

    fn open_envelope(&mut self, bytes: &[u8]) {
        match Envelope::decode(bytes) {
            Some(Envelope::Stranger(hello)) => self.hello(hello),
            Some(Envelope::Peer { link, number, message }) => {
                // Those that are gone may be heard of still.
                let Some(id) = self.by_link.get(&link).copied() else { return };
                let Some(peer) = self.peers.get_mut(&id) else { return };
                if number == peer.heard && (number == 0 || peer.met) {
                    peer.heard += 1;
                    self.listen(id, message);
                    self.deliver(id);
                } else if number < peer.heard || peer.early.len() >= MAX_EARLY {
                    self.violated(id, Violation("a message twice, or too many before their turn"));
                } else {
                    peer.early.insert(number, message.to_vec());
                }
            }
            // Nothing of ours: nobody to complain to.
            None => {}
        }
    }

    /// Listens to what has come before its turn, as far as it is its turn now.
    pub(super) fn deliver(&mut self, id: PeerId) {
        while let Some(peer) = self.peers.get_mut(&id)
            && (peer.met || peer.heard == 0)
            && let Some(message) = peer.early.remove(&peer.heard)
        {
            peer.heard += 1;
            self.listen(id, &message);
        }
    }

    fn listen(&mut self, id: PeerId, message: &[u8]) {
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
            Message::Welcome(link) => self.welcome(id, link)?,
            Message::Stale(found) if peer.stage == Stage::Meeting && !peer.welcomed => {
                let stale = Error::StaleEpoch(peer.identity.epoch, found);
                self.lose_quietly(id, &stale);
            }
            Message::Part => self.lose(id, &it_has_parted()),
            Message::Bye => self.bye(id),
            Message::Over { id: number, done, message } => self.over(id, number, done, message)?,
            _ if peer.is_parting() => {}
            _ if peer.stage == Stage::Meeting => return Err(Violation("something before a welcome")),
            Message::Stale(_) => return Err(Violation("that it is another, after a welcome")),
            Message::Ask { id: number, direction, token, checksum, count, part } => {
                self.asked(id, number, direction, token, checksum, count, part)?;
            }
            Message::More { id: number, part } => self.asked_more(id, number, part)?,
            Message::Never(number) => self.asked_no_more(id, number),
            Message::Key { region, base, len, key } => self.learn(id, region, base, len, key)?,
            Message::Forget(region) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.keys.remove(&region);
                }
            }
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

    fn learn(
        &mut self,
        id: PeerId,
        region: crate::RegionId,
        base: u64,
        len: u64,
        key: &[u8],
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let Some(endpoint) = &peer.endpoint else { return Ok(()) };
        if peer.keys.len() >= MAX_REGIONS || peer.keys.contains_key(&region) {
            return Err(Violation("more regions than there may be, or one twice"));
        }
        match self.worker.unpack(endpoint, key, base, len) {
            Ok(key) => {
                peer.keys.insert(region, key.into());
                Ok(())
            }
            Err(_) => Err(Violation("a key that cannot be used")),
        }
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
