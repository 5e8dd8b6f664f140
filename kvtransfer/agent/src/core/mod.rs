//! What the agent decides, without doing any of it: which chunk goes over which lane and when, what is tried again, and
//! how each transfer ends. No sockets, no fabrics, no clock, no randomness: time comes in as an argument, and what is to
//! be done comes out as [`Command`]s. A seeded simulator drives it through hundreds of thousands of schedules
//! (`tests/simulator`).
//!
//! What it keeps, whatever happens:
//! - a transfer ends once, and only when nothing of it is under way (or a fabric has broken its word, which its report says);
//! - a byte counts as arrived once, and with verification only after both sides' checksums agree;
//! - nothing begins for a transfer that is ending, and nothing is under way beyond the windows;
//! - transfers to one peer take turns by bytes, so that a short one does not wait for a long one's end.

mod command;
mod cut;
mod end;
mod flight;
mod lane;
mod pace;
mod peer;
mod ring;
mod schedule;
mod timers;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kvferry_transfer::{AgentName, Epoch};

use self::flight::Flight;
use self::peer::Peer;
use self::timers::Timers;
use self::transfer::Transfer;
use crate::Error;
use crate::limits::{MAX_PEERS, MAX_SEGMENTS, MAX_TRANSFERS};

pub use command::{ChunkNo, Command, LaneNo, PeerNo, TransferNo, Work};
pub use cut::{Cut, Piece};
pub use lane::{LaneSpec, LaneView};
pub use pace::Pace;

/// A point in time: the distance from a start that the caller chose once. Monotonic.
pub type Time = Duration;

/// See the [module](self).
#[derive(Debug)]
pub struct Core {
    pace: Pace,
    peers: BTreeMap<PeerNo, Peer>,
    /// The newest life of each name.
    names: HashMap<AgentName, PeerNo>,
    transfers: BTreeMap<TransferNo, Transfer>,
    flights: HashMap<ChunkNo, Flight>,
    timers: Timers,
    /// Peers with something to schedule, for which there was no room among all chunks under way.
    starved: BTreeSet<PeerNo>,
    out: VecDeque<Command>,
    segments: usize,
    /// What lanes to peers that are gone have carried, by their labels.
    past: BTreeMap<Arc<str>, LaneView>,
    next_peer: u32,
    next_transfer: u64,
    next_chunk: u64,
}

impl Core {
    /// One that knows nobody.
    pub fn new(pace: Pace) -> Self {
        Self {
            pace,
            peers: BTreeMap::new(),
            names: HashMap::new(),
            transfers: BTreeMap::new(),
            flights: HashMap::new(),
            timers: Timers::default(),
            starved: BTreeSet::new(),
            out: VecDeque::new(),
            segments: 0,
            past: BTreeMap::new(),
            next_peer: 0,
            next_transfer: 0,
            next_chunk: 0,
        }
    }

    /// The next thing to be done.
    pub fn next_command(&mut self) -> Option<Command> {
        self.out.pop_front()
    }

    /// When [`tick`](Self::tick) is due, if nothing happens before.
    pub fn due(&self) -> Option<Time> {
        self.timers.next()
    }

    /// A peer has been met: it can be reached over these lanes, best tier first or in any order. An earlier life of it is
    /// lost by that, with all that was under way.
    ///
    /// # Errors
    /// [`Error::Full`]; [`Error::NoLane`] if there is none, or more than 32.
    pub fn met(
        &mut self,
        now: Time,
        name: AgentName,
        epoch: Epoch,
        lanes: Vec<LaneSpec>,
    ) -> Result<PeerNo, Error> {
        if !(1..=32).contains(&lanes.len()) {
            return Err(Error::NoLane(format!("{} fabrics are common to both agents", lanes.len())));
        }
        if self.peers.len() >= MAX_PEERS {
            return Err(Error::Full("peers at a time (4096)"));
        }
        if let Some(old) = self.names.get(&name).copied() {
            let error = Error::StaleEpoch(self.peers[&old].epoch, epoch);
            self.lost(now, old, &error);
        }
        let no = PeerNo(self.next_peer);
        self.next_peer += 1;
        self.names.insert(name.clone(), no);
        self.peers.insert(no, Peer::new(name, epoch, lanes));
        self.reach_best(now, no);
        Ok(no)
    }

    /// Begins a transfer, which ends with [`Command::End`].
    ///
    /// # Errors
    /// [`Error::UnknownPeer`], [`Error::NoLane`], [`Error::Full`], [`Error::Deadline`].
    pub fn begin(&mut self, now: Time, peer: PeerNo, work: Work) -> Result<TransferNo, Error> {
        let Some(of) = self.peers.get_mut(&peer).filter(|peer| peer.parting.is_none()) else {
            return Err(Error::UnknownPeer("the peer".into()));
        };
        if work.lanes & of.present() == 0 {
            return Err(Error::NoLane(of.describe(work.lanes)));
        }
        if self.transfers.len() >= MAX_TRANSFERS {
            return Err(Error::Full("transfers at a time (16 Ki)"));
        }
        if self.segments + work.segments.len() > MAX_SEGMENTS {
            return Err(Error::Full("segments of all transfers (8 Mi)"));
        }
        if work.deadline <= now {
            return Err(Error::Deadline);
        }
        let no = TransferNo(self.next_transfer);
        self.next_transfer += 1;
        self.segments += work.segments.len();
        self.timers.at(work.deadline, timers::Due::Deadline(no));
        of.transfers.insert(no);
        let lanes = work.lanes;
        let of_it = Transfer::new(peer, work, now, self.pace.chunk_bytes);
        if of_it.in_ring {
            of.ring.push_back(no, lanes);
        }
        self.transfers.insert(no, of_it);
        // One of nothing has arrived, and waits for nobody.
        self.complete_if_over(now, no);
        self.pump(now, peer);
        Ok(no)
    }

    /// Ends a transfer early: [`Error::Cancelled`], unless it ends otherwise already.
    pub fn cancel(&mut self, now: Time, transfer: TransferNo) {
        self.finish(now, transfer, Error::Cancelled);
    }

    /// A peer is gone: all with it fails. Lanes are left, and [`Command::Gone`] says when nothing of it is left.
    pub fn lost(&mut self, now: Time, peer: PeerNo, why: &Error) {
        let Some(of) = self.peers.get_mut(&peer).filter(|peer| peer.parting.is_none()) else { return };
        of.parting = Some(why.clone());
        of.ring.clear();
        let transfers: Vec<TransferNo> = of.transfers.iter().copied().collect();
        for transfer in transfers {
            self.finish(now, transfer, why.clone());
        }
        self.leave_lanes(now, peer);
        self.forget_if_over(peer);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Time) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                timers::Due::Deadline(transfer) => self.finish(now, transfer, Error::Deadline),
                timers::Due::Again(peer) => self.pump(now, peer),
                timers::Due::Room => self.pump_starved(now),
                timers::Due::Flight(chunk) => self.flight_due(now, chunk),
                timers::Due::Lane(lane) => self.lane_due(now, lane),
            }
        }
    }

    /// Whether a peer can be used.
    pub fn is_up(&self, peer: PeerNo) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.parting.is_none())
    }

    /// The peers there are, and how each lane of them does.
    pub fn views(&self, now: Time) -> Vec<(PeerNo, AgentName, Epoch, Vec<LaneView>)> {
        let view = |(no, peer): (&PeerNo, &Peer)| {
            let lanes = peer.lanes.iter().map(|lane| lane.view(now)).collect();
            (*no, peer.name.clone(), peer.epoch, lanes)
        };
        self.peers.iter().map(view).collect()
    }

    /// What lanes to peers that are gone have carried, one view for each label: so that sums never shrink.
    pub fn past(&self) -> Vec<LaneView> {
        self.past.values().cloned().collect()
    }

    /// Whether a lane is waited for.
    pub fn is_reaching(&self, lane: LaneNo) -> bool {
        let of = self.peers.get(&lane.peer).and_then(|peer| peer.lanes.get(usize::from(lane.index)));
        of.is_some_and(|lane| lane.state == lane::State::Reaching)
    }

    /// Transfers that have not ended, and chunks that are under way.
    pub fn outstanding(&self) -> (usize, usize) {
        (self.transfers.len(), self.flights.len())
    }
}
