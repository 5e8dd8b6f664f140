//! Lanes: each is one fabric of this side and the one of the peer's that can talk to it.

use std::collections::hash_map::Entry;
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
            let (tier, copied_tier) = (carrier.tier, carrier.copied_tier);
            specs.push(LaneSpec { label: label.into(), tier, copied_tier });
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
                match self.paths.entry((path.own, id)) {
                    // An earlier meeting of the two still parts there; or a peer gives another one's metadata for its own.
                    Entry::Occupied(other) if *other.get() != lane => {
                        self.behind.entry((path.own, id)).or_default().push(lane);
                        return;
                    }
                    Entry::Occupied(_) => {}
                    Entry::Vacant(free) => {
                        free.insert(lane);
                    }
                }
                path.id = Some(id);
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
        let carrier = self.lanes.get(&lane).map(|path| &self.shared.carriers[path.own]);
        let demoted = carrier.is_some_and(|carrier| carrier.copied_tier > carrier.tier);
        if demoted && matches!(way.copying, Copying::Emulated | Copying::Socket) {
            // Correct, and several times slower than what was probably meant: nobody should have to guess.
            let kind = carrier.map(|carrier| &*carrier.kind).unwrap_or_default();
            tracing::warn!(kind, %way, "a library's lane is not what it should be; others go before it");
        }
        let now = self.now();
        self.core.lane_up(now, lane, Arc::new(way));
    }

    pub(super) fn lane_lost(&mut self, fabric: usize, id: PeerId, error: kvferry_transfer::Error) {
        let Some(lane) = self.paths.remove(&(fabric, id)) else { return };
        if let Some(path) = self.lanes.get_mut(&lane) {
            path.id = None;
        }
        // All with the peer has ended before. What has not is never told any more.
        let ids = &mut self.ids;
        self.chunks.retain(|_, (of, own, id)| {
            let stays = *of != lane;
            if !stays {
                ids.remove(&(*own, *id));
            }
            stays
        });
        let now = self.now();
        let error = match error {
            // Its agent is still connected: it was the lane that was parted from, by whichever side.
            kvferry_transfer::Error::Cancelled => Error::PeerLost("the lane was left".into()),
            other => other.into(),
        };
        self.core.lane_down(now, lane, &error);
        self.reach_behind(fabric, id);
    }

    /// What waited for that number to be free goes on.
    fn reach_behind(&mut self, fabric: usize, id: PeerId) {
        for lane in self.behind.remove(&(fabric, id)).unwrap_or_default() {
            if self.core.is_reaching(lane) && self.lanes.get(&lane).is_some_and(|path| path.id.is_none()) {
                self.reach(lane);
            }
        }
    }

    /// Lets fabrics know of what the peer has told.
    pub(super) fn renew_lanes(&mut self, peer: PeerNo) {
        let Some(met) = self.peers.get(&peer) else { return };
        for index in 0..u8::MAX {
            let Some(path) = self.lanes.get(&LaneNo { peer, index }) else { return };
            if path.id.is_some() {
                let fabric = &self.shared.carriers[path.own].fabric;
                // If it is lost meanwhile, that is told; then this gives another number, which is not wanted. That of another
                // peer is not this one's to give.
                if let Ok(id) = fabric.connect(&met.fabrics[path.theirs].metadata)
                    && path.id != Some(id)
                    && !self.paths.contains_key(&(path.own, id))
                {
                    fabric.disconnect(id);
                }
            }
        }
    }

    pub(super) fn forget_lanes(&mut self, peer: PeerNo) {
        let mut free = Vec::new();
        self.lanes.retain(|lane, path| {
            if let (true, Some(id)) = (lane.peer == peer, path.id) {
                free.push((path.own, id));
            }
            lane.peer != peer
        });
        self.chunks.retain(|_, (lane, own, id)| {
            if lane.peer == peer {
                self.ids.remove(&(*own, *id));
            }
            lane.peer != peer
        });
        for (own, id) in free {
            self.paths.remove(&(own, id));
            self.reach_behind(own, id);
        }
    }
}
