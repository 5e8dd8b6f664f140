//! Peers go. Nobody hears of it before everything with the peer has ended: UCX has let go of every operation, so no byte is
//! written here for it, and its uses of leases are over.

use std::time::Instant;

use super::clock::Due;
use super::peer::Stage;
use super::{Engine, Op};
use crate::fabric::Event;
use crate::fabric::ucx::message::Message;
use crate::fabric::ucx::shared::Command;
use crate::{Error, PeerId, TransferId};

impl Engine {
    /// Parts from a peer that may be there still. Both stop, and say so.
    pub(super) fn lose(&mut self, id: PeerId, why: &Error) {
        if self.begin_parting(id, why) {
            self.say(id, &Message::Part);
            self.part_on(id);
        }
    }

    /// Parts from a peer that is gone, or does not stop.
    pub(super) fn lose_quietly(&mut self, id: PeerId, why: &Error) {
        self.begin_parting(id, why);
        self.cut(id);
    }

    /// Nothing begins with it any more. `false` if that was so before.
    fn begin_parting(&mut self, id: PeerId, why: &Error) -> bool {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.is_parting()) else { return false };
        peer.stage = Stage::Parting(why.clone());
        let known = {
            let mut pages = self.shared.ledger.pages();
            self.shared.names().forget(id, &peer.identity);
            pages.remove_peer(id)
        };
        peer.known = known.is_some_and(|known| known.named);
        peer.turns.clear();
        peer.collecting = None;
        self.timers.add(Instant::now() + self.options.stop_within, Due::Parting(id));
        true
    }

    /// Goes on with parting from a peer, if that is under way.
    pub(super) fn part_on(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_parting()) else { return };
        match &peer.endpoint {
            None if peer.under_way == 0 => self.finish_parting(id),
            None => {}
            // Nobody there to talk to.
            Some(_) if peer.theirs.is_none() => self.cut(id),
            Some(_) if peer.moving > 0 => {}
            Some(_) if !peer.parting.said => {
                peer.parting.said = true;
                self.say(id, &Message::Bye);
                self.part_on(id);
            }
            // It moves bytes under a lease of this side.
            Some(_) if !peer.serving.is_empty() && !peer.parting.heard => {}
            Some(_) if peer.parting.sending => {}
            Some(endpoint) => {
                peer.parting.sending = true;
                let posted = self.worker.flush(endpoint, Op::Bye(id));
                self.posted(Op::Bye(id), posted);
            }
        }
    }

    /// The peer has stopped.
    pub(super) fn bye(&mut self, id: PeerId) {
        self.lose(id, &it_has_parted());
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.parting.heard = true;
            self.part_on(id);
        }
    }

    /// Ends the way to a peer. What is under way on it ends with an error.
    pub(super) fn cut(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_parting()) else { return };
        self.by_link.remove(&peer.ours);
        peer.early.clear();
        if let Some(endpoint) = peer.endpoint.take() {
            let posted = self.worker.close(endpoint, Op::Close(id));
            self.posted(Op::Close(id), posted);
        } else {
            self.part_on(id);
        }
    }

    fn finish_parting(&mut self, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        self.by_link.remove(&peer.ours);
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
        if peer.known {
            self.shared.ledger.events.push(Event::Lost(id, why));
        }
    }

    /// The time for closing has run out, or there was nothing to wait for.
    pub(super) fn end_what_is_left(&mut self) {
        let mut peers: Vec<PeerId> = self.peers.keys().copied().collect();
        peers.sort_unstable();
        for peer in peers {
            self.finish_parting(peer);
        }
    }
}

pub(super) fn it_has_parted() -> Error {
    Error::Lost("it has parted".into())
}
