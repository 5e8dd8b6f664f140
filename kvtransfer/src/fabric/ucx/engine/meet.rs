//! Peers come. Each side makes its own way to the other, and a peer can be used when both know that the other knows: it has
//! said so (`Welcome`), and the way there stands, so that its lane can be asked for.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

use super::clock::Due;
use super::peer::{Peer, Stage};
use super::{Engine, Op};
use crate::fabric::Event;
use crate::fabric::common::Identity;
use crate::fabric::ucx::lanes;
use crate::fabric::ucx::limits::Pace;
use crate::fabric::ucx::message::{Hello, Link, Message, Violation};
use crate::fabric::ucx::options::Want;
use crate::fabric::{Copying, Lane};
use crate::{Error, PeerId};

impl Engine {
    /// The caller wants to meet a peer.
    pub(super) fn connect(&mut self, id: PeerId, identity: Identity, address: &[u8]) {
        // It may have come here first, and may be gone again.
        if self.peers.contains_key(&id) || self.shared.ledger.pages().peer(id).is_none() {
            return;
        }
        let ours = self.meet(id, identity.clone(), address);
        let attempt = id.0.saturating_add(1);
        let hello = Hello {
            from: self.me.identity.clone(),
            to: identity,
            attempt,
            link: ours,
            address: self.me.address.clone(),
        };
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(endpoint) = &peer.endpoint else { return };
        let bytes = hello.encode();
        peer.unsent += bytes.len();
        let op = Op::Message(id, bytes.len());
        let posted = self.worker.send(endpoint, bytes, op);
        self.posted(op, posted);
    }

    /// Goes to a peer's worker.
    fn meet(&mut self, id: PeerId, identity: Identity, address: &[u8]) -> Link {
        let ours = self.new_link();
        let mut peer = Peer::new(identity, ours);
        let endpoint = self.worker.connect(address, id.0);
        let way = endpoint.map(|endpoint| &*peer.endpoint.insert(endpoint));
        let reaching = way.map(|endpoint| (Op::Meet(id), self.worker.flush(endpoint, Op::Meet(id))));
        self.peers.insert(id, peer);
        self.by_link.insert(ours, id);
        self.timers.add(Instant::now() + self.options.meet_within, Due::Meeting(id));
        match reaching {
            Ok((op, posted)) => self.posted(op, posted),
            Err(status) => {
                let why = format!("no way leads to it: {}", status.text(self.worker.ucx()));
                self.lose_quietly(id, &Error::Lost(why));
            }
        }
        ours
    }

    fn new_link(&self) -> Link {
        loop {
            let link = Link(RandomState::new().build_hasher().finish());
            if link.0 != 0 && !self.by_link.contains_key(&link) {
                return link;
            }
        }
    }

    /// Somebody says who it is, and whom it wants to meet.
    pub(super) fn hello(&mut self, hello: Hello) {
        let Hello { from, to, attempt, link, address } = hello;
        if from == self.me.identity || self.closing.is_some() {
            return;
        }
        if to != self.me.identity {
            return self.turn_away(from, &address, link);
        }
        let mut known = self.shared.names().id_of(&from);
        if let Some(id) = known
            && let Some(peer) = self.peers.get_mut(&id)
        {
            if peer.theirs == Some(link) || attempt < peer.attempt {
                return;
            }
            if peer.theirs.is_none() {
                peer.attempt = attempt;
                return self.met(id, link);
            }
            // It has parted and comes back, faster than its end was seen here.
            self.lose_quietly(id, &Error::Lost("it has parted, and comes back".into()));
            known = None;
        }
        let added = match known {
            Some(id) => Ok(id),
            None => self.name(&from),
        };
        // Beyond what there may be, it waits in vain.
        let Ok(id) = added else { return };
        self.meet(id, from, &address);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.attempt = attempt;
            self.met(id, link);
        }
    }

    /// A number for somebody who comes by itself; a caller's, if one has named it meanwhile.
    fn name(&self, identity: &Identity) -> Result<PeerId, Error> {
        let mut pages = self.shared.ledger.pages();
        let id = self.shared.names().name(identity)?;
        pages.know(id);
        Ok(id)
    }

    /// Tells somebody who wants to meet an earlier life of this side who is here now.
    fn turn_away(&mut self, from: Identity, address: &[u8], link: Link) {
        let Ok(id) = self.shared.names().new_id() else { return };
        self.meet(id, from, address);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.theirs = Some(link);
            let epoch = self.me.identity.epoch;
            self.say(id, &Message::Stale(epoch));
            self.lose(id, &Error::Cancelled);
        }
    }

    /// The peer's name for the connection is known now.
    fn met(&mut self, id: PeerId, link: Link) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.theirs = Some(link);
        let ours = peer.ours;
        self.say(id, &Message::Welcome(ours));
    }

    /// The peer knows us.
    pub(super) fn welcome(&mut self, id: PeerId, link: Link) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if peer.welcomed || peer.theirs.is_some_and(|theirs| theirs != link) {
            return Err(Violation("a welcome to somebody else, or twice"));
        }
        peer.welcomed = true;
        if peer.theirs.is_none() {
            self.met(id, link);
        }
        self.try_up(id);
        Ok(())
    }

    /// Whether the peer can be used by now; then it is.
    pub(super) fn try_up(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(endpoint) = peer.endpoint.as_ref().filter(|_| peer.stage == Stage::Meeting) else { return };
        if !peer.reached || !peer.welcomed {
            return;
        }
        let unknown = Lane {
            transport: "unknown".into(),
            device: String::new(),
            copying: Copying::Emulated,
            encrypted: false,
        };
        let lane = lanes::chosen(&self.worker.describe(endpoint)).unwrap_or(unknown);
        let (asked, had) = match self.options.want {
            Want::Any => ("any lane", true),
            Want::ZeroCopy => ("zero-copy", lane.copying == Copying::ZeroCopy),
            Want::Rdma => ("RDMA", lanes::is_rdma(&lane.transport)),
        };
        if !had {
            return self.lose(id, &Error::Lane(asked.into(), lane.to_string()));
        }
        peer.stage = Stage::Up;
        peer.met = true;
        if lane.copying == Copying::ZeroCopy {
            peer.pace = Pace::DIRECT;
        }
        if let Some(known) = self.shared.ledger.pages().peer(id) {
            known.lane = Some(lane.clone());
            known.named = true;
            self.shared.ledger.events.push(Event::Connected(id, lane));
        }
        self.deliver(id);
    }

    pub(super) fn end_meeting(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(|peer| peer.stage == Stage::Meeting) {
            self.lose(id, &Error::Lost("it did not answer in time".into()));
        }
    }
}
