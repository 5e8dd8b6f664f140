//! Where things stand with one peer.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;

use super::ask::Asks;
use super::serve::{Collecting, Serving};
use super::{Engine, Op};
use crate::fabric::common::Identity;
use crate::fabric::ucx::limits::Pace;
use crate::fabric::ucx::message::{Link, Message};
use crate::fabric::ucx::raw::{Endpoint, RemoteKey};
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
pub(super) struct Parting {
    /// This side has said that nothing of its is under way.
    pub(super) said: bool,
    /// The peer has.
    pub(super) heard: bool,
    /// The last message is being sent.
    pub(super) sending: bool,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, learnt at its own time")]
pub(super) struct Peer {
    pub(super) identity: Identity,
    pub(super) stage: Stage,
    /// `None` before it stands, and once it is cut.
    pub(super) endpoint: Option<Endpoint>,
    /// As the peer names the connection to us.
    pub(super) ours: Link,
    /// As we name it to the peer, once we know.
    pub(super) theirs: Option<Link>,
    /// The newest try of the peer's to meet us that we have heard of.
    pub(super) attempt: u32,
    /// Whether the way there stands.
    pub(super) reached: bool,
    /// Whether the peer has said that it knows us.
    pub(super) welcomed: bool,
    /// Messages said, and those heard; both count from 0.
    pub(super) said: u64,
    pub(super) heard: u64,
    /// Those that came before their turn.
    pub(super) early: BTreeMap<u64, Vec<u8>>,
    /// Bytes of messages on their way.
    pub(super) unsent: usize,
    /// What its messages weigh that were delivered and not given back.
    pub(super) owed: usize,
    /// Requests that are not wholly said.
    pub(super) asks: Asks,
    /// What opens its regions.
    pub(super) keys: HashMap<RegionId, Rc<RemoteKey>>,
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
    /// Operations that move bytes, and flushes.
    pub(super) moving: usize,
    pub(super) moving_bytes: u64,
    pub(super) pace: Pace,
    /// All operations.
    pub(super) under_way: usize,
    /// Whether it could ever be used.
    pub(super) met: bool,
    /// How far parting from it is.
    pub(super) parting: Parting,
    /// Whether a caller must hear of its end.
    pub(super) known: bool,
}

impl Peer {
    pub(super) fn new(identity: Identity, ours: Link) -> Self {
        Self {
            identity,
            stage: Stage::Meeting,
            endpoint: None,
            ours,
            theirs: None,
            attempt: 0,
            reached: false,
            welcomed: false,
            said: 0,
            heard: 0,
            early: BTreeMap::new(),
            unsent: 0,
            owed: 0,
            asks: Asks::default(),
            keys: HashMap::new(),
            told: HashSet::new(),
            collecting: None,
            serving: HashMap::new(),
            turns: VecDeque::new(),
            active: false,
            moving: 0,
            moving_bytes: 0,
            pace: Pace::BY_MESSAGES,
            under_way: 0,
            met: false,
            parting: Parting::default(),
            known: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    pub(super) const fn is_parting(&self) -> bool {
        matches!(self.stage, Stage::Parting(_))
    }

    /// Whether it moves bytes for that request.
    pub(super) fn is_served(&self, number: u64) -> bool {
        self.serving.get(&number).is_some_and(|serving| !serving.over)
    }
}

impl Engine {
    /// Sends a message to a peer whose name for the connection is known. To one that is gone, nothing.
    pub(super) fn say(&mut self, id: PeerId, message: &Message<'_>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (Some(endpoint), Some(link)) = (&peer.endpoint, peer.theirs) else { return };
        let bytes = message.encode(link, peer.said);
        peer.said += 1;
        peer.unsent += bytes.len();
        let op = Op::Message(id, bytes.len());
        let posted = self.worker.send(endpoint, bytes, op);
        self.posted(op, posted);
    }
}
