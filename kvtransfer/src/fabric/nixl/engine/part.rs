//! Peers go. Nobody hears of it before everything with the peer has ended: NIXL has no request with it under way, so no byte
//! is written here for it, and its uses of leases are over.
//!
//! Whoever parts says so, stops, says that it has stopped, hears the same, and ends the control connection. When that ends
//! by itself, the peer is gone, or cannot be heard of: then it is not waited for.

use std::time::Instant;

use super::Engine;
use super::clock::Due;
use super::peer::Stage;
use crate::fabric::nixl::limits::LINGER;
use crate::fabric::nixl::message::Message;
use crate::fabric::nixl::shared::Command;
use crate::fabric::{Event, Fabric};
use crate::{Error, Fault, PeerId, TransferId};

impl Engine {
    /// Parts from a peer that may be there still. Both stop, and say so.
    pub(super) fn lose(&mut self, id: PeerId, why: &Error) {
        let Some(meeting) = self.begin_parting(id, why, true) else { return };
        if meeting {
            // Nothing can be under way, and nobody may be there to talk to.
            return self.cut(id);
        }
        self.say(id, &Message::Part);
        self.part_on(id);
    }

    /// NIXL's way for bytes to a peer has broken. NIXL does not tell a peer's death from a failure of its own; the control
    /// connection does, by breaking, too.
    pub(super) fn broke(&mut self, id: PeerId, how: &str) {
        if self.peers.get(&id).is_some_and(|peer| !peer.is_parting()) {
            self.lose(id, &Error::Lost(format!("it is there, but NIXL's way for bytes to it broke: {how}")));
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.parting.broke = true;
        }
    }

    /// Parts from a peer that does not stop.
    pub(super) fn lose_by_force(&mut self, id: PeerId, why: &Error) {
        self.begin_parting(id, why, true);
        self.force(id);
    }

    /// Nothing begins with it any more: whether it was being met. `None` if it is parted from already.
    fn begin_parting(&mut self, id: PeerId, why: &Error, ours: bool) -> Option<bool> {
        let peer = self.peers.get_mut(&id).filter(|peer| !peer.is_parting())?;
        let meeting = peer.is_meeting();
        peer.stage = Stage::Parting(why.clone());
        peer.parting.ours = ours;
        let known = self.shared.ledger.pages().remove_peer(id);
        peer.known = known.is_some_and(|known| known.named);
        peer.turns.clear();
        peer.collecting = None;
        self.timers.add(Instant::now() + self.options.stop_within, Due::Parting(id));
        Some(meeting)
    }

    /// The peer parts.
    pub(super) fn told_to_part(&mut self, id: PeerId) {
        self.begin_parting(id, &it_has_parted(), false);
        self.part_on(id);
    }

    /// Nothing of the peer's is under way any more.
    pub(super) fn bye(&mut self, id: PeerId) {
        self.begin_parting(id, &it_has_parted(), false);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.parting.heard = true;
        }
        self.part_on(id);
    }

    /// The control connection has ended.
    pub(super) fn gone(&mut self, id: PeerId, why: Error) {
        let why = if why.fault() == Fault::Peer { why } else { Error::Lost(why.to_string()) };
        self.begin_parting(id, &why, false);
        if let Some(peer) = self.peers.get_mut(&id) {
            let dead = peer.parting.broke && !peer.parting.heard && !peer.parting.cut;
            if dead {
                peer.stage = Stage::Parting(why);
            }
            peer.parting.gone = true;
            peer.unsent.clear();
        }
        self.part_on(id);
    }

    /// Goes on with parting from a peer, if that is under way.
    pub(super) fn part_on(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_parting()) else { return };
        if peer.moving > 0 || peer.parting.lingering {
            return;
        }
        if peer.parting.gone {
            return self.finish_parting(id);
        }
        if !peer.parting.said {
            peer.parting.said = true;
            self.say(id, &Message::Bye);
            return self.part_on(id);
        }
        // The other one ends the connection if it began to part, for then it knows that both have heard it.
        if peer.parting.ours && peer.parting.heard {
            self.cut(id);
        }
    }

    /// Ends the control connection; its end is told.
    fn cut(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.parting.cut && !peer.parting.gone)
        else {
            return;
        };
        peer.parting.cut = true;
        peer.unsent.clear();
        self.shared.control.disconnect(id);
    }

    /// Waits no longer for what is under way with a peer that is parted from.
    pub(super) fn force(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_parting()) else { return };
        if peer.moving > 0 {
            peer.moving = 0;
            peer.parting.lingering = true;
            self.running.retain(|running| running.peer != id);
            self.timers.add(Instant::now() + LINGER, Due::Lingered(id));
        }
        self.cut(id);
        self.part_on(id);
    }

    /// What was let go of under way is over by now.
    pub(super) fn lingered(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.parting.lingering = false;
        }
        self.part_on(id);
    }

    fn finish_parting(&mut self, id: PeerId) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        // Prepared blocks point into what is forgotten here.
        peer.blocks.clear();
        self.transfers.values_mut().filter(|transfer| transfer.request.peer == id).for_each(|transfer| {
            transfer.blocks = None;
        });
        if let Some(name) = peer.name.take() {
            self.names.remove(&name);
            let requests = self.running.iter().filter(|running| running.peer == id).count();
            // It knows nothing of one whose way it did not find.
            self.agent.forget(&name, requests).ok();
        }
        let Stage::Parting(why) = peer.stage else { return };
        let mut transfers: Vec<TransferId> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.request.peer == id)
            .map(|(id, _)| *id)
            .collect();
        transfers.sort_unstable();
        for transfer in transfers {
            self.end(transfer, Err(why.clone()));
        }
        // Callers may have begun some before they could know; none can by now.
        let late = self
            .shared
            .inbox
            .take_if(|command| matches!(command, Command::Submit(_, request) if request.peer == id));
        for command in late {
            if let Command::Submit(transfer, request) = command {
                self.refuse(transfer, &request, why.clone());
            }
        }
        for (_, serving) in peer.serving {
            self.shared.ledger.done_with(serving.using);
        }
        // Whoever wanted to meet it meanwhile was given this number, too.
        let again = self.shared.ledger.pages().remove_peer(id);
        if peer.known || again.is_some_and(|known| known.named) {
            self.shared.ledger.events.push(Event::Lost(id, why));
        }
        self.load_waiting();
    }

    /// A peer that the caller has a number of, and that is not met: the fabric is closing.
    pub(super) fn never_met(&mut self, id: PeerId) {
        if self.shared.ledger.pages().remove_peer(id).is_some_and(|known| known.named) {
            self.shared.ledger.events.push(Event::Lost(id, Error::Closed));
        }
    }

    /// The time for closing has run out, or there was nothing to wait for.
    pub(super) fn end_what_is_left(&mut self) {
        let mut peers: Vec<PeerId> = self.peers.keys().copied().collect();
        peers.sort_unstable();
        // NIXL's requests first: nothing may ask after one whose peer is forgotten.
        self.running.clear();
        for peer in peers {
            self.finish_parting(peer);
        }
    }
}

pub(super) fn it_has_parted() -> Error {
    Error::Lost("it has parted".into())
}
