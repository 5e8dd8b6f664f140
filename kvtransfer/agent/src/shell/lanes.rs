//! Lanes: each is one fabric of this side and the one of the peer's that can talk to it.

use std::sync::Arc;

use kvferry_transfer::PeerId;
use kvferry_transfer::fabric::{Backend, Copying, Lane};

use super::run::Shell;
use crate::Error;
use crate::core::{LaneNo, LaneSpec, PeerNo};
use crate::protocol::Carried;

/// What a lane is made of.
#[derive(Debug)]
pub(super) struct Path {
    /// This side's fabric.
    pub(super) own: usize,
    /// The peer's.
    pub(super) theirs: usize,
    /// What this side's fabric calls the peer, while it is connected or about to be.
    pub(super) id: Option<PeerId>,
}

impl Shell {
    /// The lanes to a peer with these fabrics: the first of a kind to the first of that kind, the second to the second.
    pub(super) fn common(&self, theirs: &[Carried]) -> (Vec<LaneSpec>, Vec<(usize, usize)>) {
        let (mut specs, mut pairs) = (Vec::new(), Vec::new());
        let carriers = &self.shared.carriers;
        for (own, carrier) in carriers.iter().enumerate() {
            let rail = carriers[..own].iter().filter(|other| other.kind == carrier.kind).count();
            let mut of_kind = theirs.iter().enumerate().filter(|(_, other)| other.kind == carrier.kind);
            let Some((other, _)) = of_kind.nth(rail) else { continue };
            let several = carriers.iter().filter(|other| other.kind == carrier.kind).count() > 1;
            let label = if several { format!("{}#{rail}", carrier.kind) } else { carrier.kind.to_string() };
            specs.push(LaneSpec { label: label.into(), tier: carrier.tier });
            pairs.push((own, other));
        }
        (specs, pairs)
    }

    pub(super) fn new_lanes(&mut self, peer: PeerNo, pairs: Vec<(usize, usize)>) {
        for (index, (own, theirs)) in (0..).zip(pairs) {
            self.lanes.insert(LaneNo { peer, index }, Path { own, theirs, id: None });
        }
    }

    /// Goes to meet the peer over a lane.
    pub(super) fn reach(&mut self, lane: LaneNo) {
        let now = self.now();
        let (Some(path), Some(met)) = (self.lanes.get_mut(&lane), self.peers.get(&lane.peer)) else { return };
        let carrier = &self.shared.carriers[path.own];
        match carrier.fabric.connect(&met.fabrics[path.theirs].metadata) {
            Ok(id) => {
                path.id = Some(id);
                self.paths.insert((path.own, id), lane);
                // The peer may have come first; then nothing more is said about it.
                if let Some(way) = carrier.fabric.lane(id) {
                    self.lane_up(lane, way);
                }
            }
            // That two are not on one host is no failure.
            Err(kvferry_transfer::Error::Lane(..)) if carrier.fabric.backend() == Backend::Shm => {
                self.core.lane_absent(now, lane);
            }
            Err(error) => self.core.lane_down(now, lane, &error.into()),
        }
    }

    /// Parts from the peer over a lane.
    pub(super) fn leave(&mut self, lane: LaneNo) {
        let now = self.now();
        let Some(path) = self.lanes.get(&lane) else { return };
        match path.id {
            Some(id) => self.shared.carriers[path.own].fabric.disconnect(id),
            None => self.core.lane_down(now, lane, &Error::Cancelled),
        }
    }

    pub(super) fn lane_connected(&mut self, fabric: usize, id: PeerId, way: Lane) {
        if let Some(lane) = self.paths.get(&(fabric, id)) {
            self.lane_up(*lane, way);
        }
    }

    fn lane_up(&mut self, lane: LaneNo, way: Lane) {
        if way.copying == Copying::Emulated {
            // Correct, and several times slower than what was probably meant: nobody should have to guess.
            tracing::warn!(%way, "a library makes messages of what its lane should carry");
        }
        let now = self.now();
        self.core.lane_up(now, lane, Arc::new(way));
    }

    pub(super) fn lane_lost(&mut self, fabric: usize, id: PeerId, error: kvferry_transfer::Error) {
        let Some(lane) = self.paths.remove(&(fabric, id)) else { return };
        if let Some(path) = self.lanes.get_mut(&lane) {
            path.id = None;
        }
        let now = self.now();
        let error = match error {
            // Its agent is still connected: it was the lane that was parted from, by whichever side.
            kvferry_transfer::Error::Cancelled => Error::PeerLost("the lane was left".into()),
            other => other.into(),
        };
        self.core.lane_down(now, lane, &error);
    }

    /// Lets fabrics know of what the peer has told.
    pub(super) fn renew_lanes(&mut self, peer: PeerNo) {
        let Some(met) = self.peers.get(&peer) else { return };
        for index in 0..u8::MAX {
            let Some(path) = self.lanes.get(&LaneNo { peer, index }) else { return };
            if path.id.is_some() {
                let fabric = &self.shared.carriers[path.own].fabric;
                // If it is lost meanwhile, that is told; then this gives another number, which is not wanted.
                if let Ok(id) = fabric.connect(&met.fabrics[path.theirs].metadata)
                    && path.id != Some(id)
                {
                    fabric.disconnect(id);
                }
            }
        }
    }

    pub(super) fn forget_lanes(&mut self, peer: PeerNo) {
        let paths = &mut self.paths;
        self.lanes.retain(|lane, path| {
            if let (true, Some(id)) = (lane.peer == peer, path.id) {
                paths.remove(&(path.own, id));
            }
            lane.peer != peer
        });
    }
}
