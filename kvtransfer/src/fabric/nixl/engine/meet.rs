//! Peers come. Over the control connection each says where its plugin is reached, takes in where the other's is, and sends
//! the other a proof through NIXL itself. A peer can be used when both proofs have arrived: so the way for bytes stands in
//! both directions, whatever NIXL has chosen, before anybody relies on it.

use std::ffi::CString;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Instant;

use super::Engine;
use super::clock::Due;
use super::peer::{Peer, Stage};
use crate::fabric::common::Identity;
use crate::fabric::nixl::limits::MAX_PROOFS;
use crate::fabric::nixl::message::{Message, Proof, Violation};
use crate::fabric::{Copying, Event, Fabric, Lane};
use crate::{Error, PeerId};

impl Engine {
    /// The caller wants to meet a peer.
    pub(super) fn connect(&mut self, id: PeerId, identity: Identity) {
        // It may have come here first, and may be gone again.
        if self.shared.ledger.pages().peer(id).is_none() {
            return;
        }
        if self.closing.is_some() {
            return self.never_met(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            self.add(id, identity);
            return;
        };
        peer.identity.get_or_insert(identity);
    }

    /// A peer, to or from which there is a control connection.
    fn add(&mut self, id: PeerId, identity: Identity) {
        let mut peer = Peer::new(new_proof());
        peer.identity = Some(identity);
        self.peers.insert(id, peer);
        self.timers.add(Instant::now() + self.options.meet_within, Due::Meeting(id));
        self.greet(id);
    }

    fn greet(&mut self, id: PeerId) {
        // A control connection that is closed has none, and its peers are about to be lost.
        let control = self.shared.control.metadata().unwrap_or_default();
        let (from, plugin, info) = (self.me.clone(), self.options.plugin.clone(), self.info.clone());
        self.say(id, &Message::Hello { from, control: &control, plugin: &plugin, info: &info });
    }

    /// Somebody who is not known yet says who it is.
    pub(super) fn stranger(&mut self, id: PeerId, message: &[u8]) {
        let Ok(Message::Hello { from, control, .. }) = Message::decode(message) else {
            return self.shared.control.disconnect(id);
        };
        // To answer takes a connection of this side's own.
        let met = self.shared.control.connect(control);
        if self.closing.is_some() || met != Ok(id) {
            // It claims to be somebody else, or there is no room for it.
            self.shared.control.disconnect(id);
            if let Ok(other) = met
                && !self.peers.contains_key(&other)
                && self.shared.ledger.pages().peer(other).is_none()
            {
                self.shared.control.disconnect(other);
            }
            return;
        }
        self.shared.ledger.pages().know(id);
        self.add(id, from);
        self.listen(id, message);
    }

    /// A peer says who it is and where its plugin is reached.
    pub(super) fn hello(
        &mut self,
        id: PeerId,
        from: Identity,
        plugin: &str,
        info: &[u8],
    ) -> Result<(), Violation> {
        let ours = self.options.plugin.clone();
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_meeting()) else { return Ok(()) };
        if peer.info.is_some() || peer.identity.as_ref().is_some_and(|identity| *identity != from) {
            return Err(Violation("a greeting twice, or of somebody else"));
        }
        peer.identity = Some(from);
        if plugin != ours {
            let why = format!("it goes by NIXL's plugin {plugin:.64}, this side by {ours}");
            self.lose(id, &Error::Lost(why));
            return Ok(());
        }
        peer.info = Some(info.to_vec());
        self.load(id);
        Ok(())
    }

    /// Takes in where a peer's plugin is reached, unless NIXL has an earlier connection with the same life still.
    fn load(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_meeting() && peer.name.is_none())
        else {
            return;
        };
        let (Some(identity), Some(info)) = (&peer.identity, &peer.info) else { return };
        let text = identity.to_string();
        let name = CString::new(text.clone()).expect("names of agents are printable");
        if self.names.contains_key(&name) {
            return;
        }
        let loaded = self.agent.load(info);
        if loaded.as_ref().is_ok_and(|loaded| *loaded != text) {
            // Nobody is known by that name yet, or it would not have been taken in.
            let other = loaded.ok().and_then(|other| CString::new(other).ok());
            if let Some(other) = other.filter(|other| !self.names.contains_key(other)) {
                self.agent.forget(&other, 0).ok();
            }
            return self.lose(id, &Error::Lost("what it says of its plugin is somebody else's".into()));
        }
        self.names.insert(name.clone(), id);
        peer.name = Some(name.clone());
        let proof = peer.proof;
        let way = loaded.map(|_| ()).and_then(|()| self.agent.connect(&name));
        if let Err(status) = way {
            let why = format!("NIXL finds no way to it by {}: {status}", self.options.plugin);
            return self.lose(id, &Error::Lost(why));
        }
        if self.agent.notify(&name, &proof).is_err() {
            // A plugin without messages of its own: nothing shows beforehand whether the way stands.
            self.proven(id, proof);
        }
        if let Some(proof) = self.proofs.remove(&name) {
            self.say(id, &Message::Proven(proof));
        }
    }

    /// Whoever waited for NIXL to forget an earlier connection need not any more.
    pub(super) fn load_waiting(&mut self) {
        let waiting = self.peers.iter().filter(|(_, peer)| peer.is_meeting() && peer.name.is_none());
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.load(id);
        }
    }

    /// Looks for proofs through NIXL, while somebody is being met. Returns whether there was any.
    pub(super) fn look_for_proofs(&mut self) -> bool {
        let served =
            !self.options.progress_thread && self.peers.values().any(|peer| !peer.serving.is_empty());
        if !served && !self.peers.values().any(Peer::is_meeting) {
            return false;
        }
        let Ok(came) = self.agent.notifications() else { return false };
        let any = !came.is_empty();
        for (from, proof) in came {
            let (Ok(from), Ok(proof)) = (CString::new(from), Proof::try_from(proof.as_slice())) else {
                continue;
            };
            match self.names.get(&from).copied() {
                Some(id) => self.say(id, &Message::Proven(proof)),
                // It comes by another way than the sender's name, and may be faster.
                None if self.proofs.len() < MAX_PROOFS => drop(self.proofs.insert(from, proof)),
                None => {}
            }
        }
        any
    }

    /// What this side has sent through NIXL has arrived.
    pub(super) fn proven(&mut self, id: PeerId, proof: Proof) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.is_meeting() && proof == peer.proof && !peer.reached {
            peer.reached = true;
            self.say(id, &Message::Ready);
            self.try_up(id);
        }
    }

    pub(super) fn ready(&mut self, id: PeerId) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if std::mem::replace(&mut peer.ready, true) {
            return Err(Violation("that it is ready twice"));
        }
        self.try_up(id);
        Ok(())
    }

    fn try_up(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_meeting()) else { return };
        if !peer.reached || !peer.ready {
            return;
        }
        peer.stage = Stage::Up;
        let lane = Lane {
            transport: format!("nixl/{}", self.options.plugin),
            device: String::new(),
            copying: Copying::Untold,
            encrypted: false,
        };
        if let Some(known) = self.shared.ledger.pages().peer(id) {
            known.lane = Some(lane.clone());
            known.named = true;
            self.shared.ledger.events.push(Event::Connected(id, lane));
        }
    }

    pub(super) fn end_meeting(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(Peer::is_meeting) {
            self.lose(id, &Error::Lost("it did not answer in time".into()));
        }
    }
}

fn new_proof() -> Proof {
    let half = || RandomState::new().build_hasher().finish();
    let mut proof = Proof::default();
    proof[..8].copy_from_slice(&half().to_le_bytes());
    proof[8..].copy_from_slice(&half().to_le_bytes());
    // Whoever takes messages for text that ends at a zero byte is found out here.
    (proof[0], proof[15]) = (0, 0);
    proof
}
