//! Where things stand with one peer, and how it is spoken to.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::rc::Rc;

use bytes::Bytes;

use super::Engine;
use super::ask::Asks;
use super::serve::{Collecting, Serving};
use crate::fabric::common::Identity;
use crate::fabric::nixl::limits::POSTS_AT_ONCE;
use crate::fabric::nixl::message::{At, Message, Proof};
use crate::fabric::nixl::raw::Prepared;
use crate::fabric::{Fabric, Limits};
use crate::{Error, PeerId, RegionId, TransferId};

/// How far a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// On the way to it, or waiting for its answer.
    Meeting,
    /// It can be used.
    Up,
    /// It is gone, for that reason; what is under way has not ended yet.
    Parting(Error),
}

/// What was said and heard at parting.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, learnt at its own time")]
pub(super) struct Parting {
    /// Whether this side began it: then it ends the control connection.
    pub(super) ours: bool,
    /// This side has said that nothing of its is under way.
    pub(super) said: bool,
    /// The peer has.
    pub(super) heard: bool,
    /// The control connection is being ended.
    pub(super) cut: bool,
    /// It has ended.
    pub(super) gone: bool,
    /// Requests were let go of under way, and may not be over.
    pub(super) lingering: bool,
    /// It began because NIXL's way broke: the control connection may yet tell why.
    pub(super) broke: bool,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, learnt at its own time")]
pub(super) struct Peer {
    /// As far as it is known.
    pub(super) identity: Option<Identity>,
    pub(super) stage: Stage,
    /// As NIXL names it, once it has been loaded.
    pub(super) name: Option<CString>,
    /// Where its plugin is reached, once it has said so.
    pub(super) info: Option<Vec<u8>>,
    /// What this side sends it through NIXL.
    pub(super) proof: Proof,
    /// Whether that has arrived.
    pub(super) reached: bool,
    /// Whether the peer is ready.
    pub(super) ready: bool,
    /// The beginning of a message whose end has not come.
    pub(super) begun: Vec<u8>,
    /// Pieces that wait for room on the control connection.
    pub(super) unsent: VecDeque<Bytes>,
    /// What its messages weigh that were delivered and not given back.
    pub(super) owed: usize,
    /// Requests that are not wholly said.
    pub(super) asks: Asks,
    /// Its regions whose keys NIXL has.
    pub(super) keys: HashMap<RegionId, At>,
    /// Those that are no more, and whose keys NIXL has still.
    pub(super) stale: Vec<At>,
    /// Its regions, prepared as blocks of so many bytes.
    pub(super) blocks: HashMap<(RegionId, u64), Rc<Prepared>>,
    /// Regions here that it has the keys of.
    pub(super) told: HashSet<RegionId>,
    /// A request of it that has not come wholly.
    pub(super) collecting: Option<Collecting>,
    /// What it does under leases.
    pub(super) serving: HashMap<u64, Serving>,
    /// Transfers that have something to post, in the order of their turns.
    pub(super) turns: VecDeque<TransferId>,
    /// Whether it is in [`Engine::active`].
    pub(super) active: bool,
    /// Requests under way.
    pub(super) moving: usize,
    /// How far parting from it is.
    pub(super) parting: Parting,
    /// Whether a caller must hear of its end.
    pub(super) known: bool,
}

impl Peer {
    pub(super) fn new(proof: Proof) -> Self {
        Self {
            identity: None,
            stage: Stage::Meeting,
            name: None,
            info: None,
            proof,
            reached: false,
            ready: false,
            begun: Vec::new(),
            unsent: VecDeque::new(),
            owed: 0,
            asks: Asks::default(),
            keys: HashMap::new(),
            stale: Vec::new(),
            blocks: HashMap::new(),
            told: HashSet::new(),
            collecting: None,
            serving: HashMap::new(),
            turns: VecDeque::with_capacity(POSTS_AT_ONCE),
            active: false,
            moving: 0,
            parting: Parting::default(),
            known: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    pub(super) fn is_meeting(&self) -> bool {
        self.stage == Stage::Meeting
    }

    pub(super) const fn is_parting(&self) -> bool {
        matches!(self.stage, Stage::Parting(_))
    }

    /// Whether it moves bytes for that request.
    pub(super) fn is_served(&self, number: u64) -> bool {
        self.serving.get(&number).is_some_and(|serving| !serving.over)
    }
}

/// Before a piece that is not the last of its message.
const BEGINS: u8 = 1;
/// Before one that is.
const ENDS: u8 = 0;

/// A message in pieces that the control connection takes.
fn pieces(message: &[u8]) -> impl Iterator<Item = Bytes> {
    let count = message.len().div_ceil(Limits::MAX_MESSAGE - 1);
    message.chunks(Limits::MAX_MESSAGE - 1).enumerate().map(move |(at, piece)| {
        let mut out = Vec::with_capacity(piece.len() + 1);
        out.push(if at + 1 < count { BEGINS } else { ENDS });
        out.extend_from_slice(piece);
        out.into()
    })
}

/// Puts a piece behind what has come before it. Whether the message is whole now; `None` if it is no piece, or makes the
/// message longer than any may be.
pub(super) fn put_together(begun: &mut Vec<u8>, piece: &[u8], most: usize) -> Option<bool> {
    let (mark, piece) = piece.split_first()?;
    if begun.len() + piece.len() > most || !matches!(*mark, BEGINS | ENDS) {
        return None;
    }
    begun.extend_from_slice(piece);
    Some(*mark == ENDS)
}

impl Engine {
    /// Sends a message to a peer. To one that is gone, nothing.
    pub(super) fn say(&mut self, id: PeerId, message: &Message<'_>) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.parting.cut && !peer.parting.gone)
        else {
            return;
        };
        for piece in pieces(&message.encode()) {
            // In order: behind those that wait.
            let full = |sent| matches!(sent, Err(Error::Full(_)));
            if !peer.unsent.is_empty() || full(self.shared.control.notify(id, piece.clone())) {
                if peer.unsent.is_empty() {
                    self.held_back.push_back(id);
                }
                peer.unsent.push_back(piece);
            }
            // Whoever is unknown is about to be lost.
        }
    }

    /// Sends what had to wait for room. Returns whether there was any.
    pub(super) fn send_held_back(&mut self) -> bool {
        let mut any = false;
        for _ in 0..self.held_back.len() {
            let Some(id) = self.held_back.pop_front() else { break };
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            while let Some(piece) = peer.unsent.front() {
                if matches!(self.shared.control.notify(id, piece.clone()), Err(Error::Full(_))) {
                    break;
                }
                peer.unsent.pop_front();
                any = true;
            }
            if peer.unsent.is_empty() {
                self.ask_on(id);
            } else {
                self.held_back.push_back(id);
            }
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_any_length_comes_together_again_and_no_longer_one() {
        for len in [1, Limits::MAX_MESSAGE - 1, Limits::MAX_MESSAGE, 3 * Limits::MAX_MESSAGE] {
            let message: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let (mut begun, mut wholes) = (Vec::new(), Vec::new());
            for piece in pieces(&message) {
                assert!(piece.len() <= Limits::MAX_MESSAGE);
                wholes.push(put_together(&mut begun, &piece, len).unwrap());
            }
            assert_eq!((begun == message, wholes.pop()), (true, Some(true)), "{len}");
            assert!(wholes.iter().all(|whole| !whole));
            let last = pieces(&message).last().unwrap();
            assert_eq!(put_together(&mut begun, &last, len), None, "longer than it may be");
        }
        assert_eq!(put_together(&mut Vec::new(), &[], 9), None);
        assert_eq!(put_together(&mut Vec::new(), &[7, 1], 9), None);
    }
}
