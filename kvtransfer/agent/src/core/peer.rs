//! A peer's lanes: which are tried when, and what becomes of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvferry_transfer::{AgentName, Epoch, fabric};

use super::lane::{Lane, LaneSpec, State};
use super::ring::Ring;
use super::timers::Due;
use super::{Command, Core, LaneNo, LaneView, PeerNo, Time, TransferNo};
use crate::Error;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: AgentName,
    pub(super) epoch: Epoch,
    pub(super) lanes: Vec<Lane>,
    /// Transfers with something to schedule, in the order of their turns.
    pub(super) ring: Ring,
    /// All that have not ended.
    pub(super) transfers: BTreeSet<TransferNo>,
    /// Why it is lost, once it is.
    pub(super) parting: Option<Error>,
}

impl Peer {
    pub(super) fn new(name: AgentName, epoch: Epoch, lanes: Vec<LaneSpec>) -> Self {
        Self {
            name,
            epoch,
            lanes: lanes.into_iter().map(Lane::new).collect(),
            ring: Ring::default(),
            transfers: BTreeSet::new(),
            parting: None,
        }
    }

    /// Lanes in `mask`.
    pub(super) fn among(&self, mask: u32) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes.iter().enumerate().filter(move |(index, _)| mask & (1 << index) != 0)
    }

    /// The lanes that exist.
    pub(super) fn present(&self) -> u32 {
        let exist = self.among(u32::MAX).filter(|(_, lane)| lane.state != State::Absent);
        exist.fold(0, |mask, (index, _)| mask | 1 << index)
    }

    pub(super) fn describe(&self, mask: u32) -> String {
        let lanes: Vec<String> = self.among(mask).map(|(_, lane)| lane.describe()).collect();
        if lanes.is_empty() {
            "its memory is registered with no common fabric".into()
        } else {
            lanes.join("; ")
        }
    }
}

impl Core {
    /// A lane can be used.
    pub fn lane_up(&mut self, now: Time, lane: LaneNo, way: Arc<fabric::Lane>) {
        let Some(of) = self.lane_mut(lane).filter(|lane| lane.state == State::Reaching) else { return };
        of.state = State::Up;
        of.counts.way = Some(way);
        let demoted = of.is_demoted();
        self.timers.clear(Due::Lane(lane));
        if demoted {
            // What was to be better than the next tier is not.
            self.reach_best(now, lane.peer);
        }
        self.pump(now, lane.peer);
    }

    /// A lane cannot be used: it was lost, left, or never reached. Nothing that was begun over it touches memory any more.
    pub fn lane_down(&mut self, now: Time, lane: LaneNo, why: &Error) {
        let Some(of) = self.lane_mut(lane) else { return };
        if matches!(of.state, State::Absent | State::Dead(_)) {
            return;
        }
        let reason = match &of.state {
            State::Leaving(first) => first.clone(),
            _ => why.clone(),
        };
        of.failures += 1;
        of.counts.losses += 1;
        let rest = of.rest();
        // What cannot get better in this life of the peer is not tried again.
        if reason.may_retry() && !matches!(reason, Error::Fabric(kvferry_transfer::Error::Lane(..))) {
            of.state = State::Down(reason.clone());
            self.timers.at(now + rest, Due::Lane(lane));
        } else {
            of.state = State::Dead(reason.clone());
            self.timers.clear(Due::Lane(lane));
        }
        self.fail_moving(now, lane, &reason, true);
        self.after_loss(now, lane.peer);
    }

    /// There is no such lane between these two agents.
    pub fn lane_absent(&mut self, now: Time, lane: LaneNo) {
        let Some(of) = self.lane_mut(lane) else { return };
        of.state = State::Absent;
        self.timers.clear(Due::Lane(lane));
        self.after_loss(now, lane.peer);
    }

    fn after_loss(&mut self, now: Time, peer: PeerNo) {
        if self.peers.get(&peer).is_some_and(|peer| peer.parting.is_some()) {
            self.leave_lanes(now, peer);
            self.forget_if_over(peer);
        } else {
            self.reach_best(now, peer);
            self.pump(now, peer);
        }
    }

    /// Goes to meet a peer over the best lanes that have not failed, unless there are some.
    pub(super) fn reach_best(&mut self, now: Time, peer: PeerNo) {
        let Some(of) = self.peers.get(&peer) else { return };
        let usable = |lane: &&Lane| matches!(lane.state, State::Untried | State::Reaching | State::Up);
        let best = of.lanes.iter().filter(usable).map(Lane::tier).min();
        let untried = |(_, lane): &(usize, &Lane)| lane.state == State::Untried && Some(lane.tier()) == best;
        let indices: Vec<usize> = of.among(u32::MAX).filter(untried).map(|(index, _)| index).collect();
        for index in indices {
            self.reach(now, number(peer, index));
        }
    }

    pub(super) fn reach(&mut self, now: Time, lane: LaneNo) {
        let within = self.pace.reach_within;
        let Some(of) = self.lane_mut(lane) else { return };
        of.state = State::Reaching;
        self.timers.at(now + within, Due::Lane(lane));
        self.out.push_back(Command::Reach(lane));
    }

    /// Parts from the peer over a lane, for a reason. All of it that is moving ends by that.
    pub(super) fn leave(&mut self, now: Time, lane: LaneNo, why: Error) {
        let within = self.pace.stop_within;
        let Some(of) = self.lane_mut(lane) else { return };
        if !matches!(of.state, State::Reaching | State::Up) {
            return;
        }
        of.state = State::Leaving(why);
        self.timers.at(now + within, Due::Lane(lane));
        self.out.push_back(Command::Leave(lane));
    }

    /// A lane has rested, did not answer in time, or was not left in time.
    pub(super) fn lane_due(&mut self, now: Time, lane: LaneNo) {
        let parting = !self.is_up(lane.peer);
        let Some(of) = self.lane_mut(lane) else { return };
        match of.state.clone() {
            State::Down(_) if !parting => self.reach(now, lane),
            State::Reaching => {
                self.leave(now, lane, Error::PeerLost("it did not answer over this lane".into()));
            }
            State::Leaving(why) => {
                // The fabric does not say what it must. Nobody is to wait for ever; but the memory is not known to be free,
                // and the lane is not used again.
                of.state = State::Dead(why.clone());
                of.counts.losses += 1;
                self.fail_moving(now, lane, &why, false);
                self.after_loss(now, lane.peer);
            }
            _ => {}
        }
    }

    /// Leaves all lanes of a peer that is lost.
    pub(super) fn leave_lanes(&mut self, now: Time, peer: PeerNo) {
        let Some(of) = self.peers.get(&peer) else { return };
        let why = of.parting.clone().unwrap_or(Error::Cancelled);
        for index in 0..of.lanes.len() {
            self.leave(now, number(peer, index), why.clone());
            if let Some(lane) = self.lane_mut(number(peer, index))
                && matches!(lane.state, State::Untried | State::Down(_))
            {
                lane.state = State::Dead(why.clone());
                self.timers.clear(Due::Lane(number(peer, index)));
            }
        }
    }

    /// Says that a peer is gone, once nothing of it is left.
    pub(super) fn forget_if_over(&mut self, peer: PeerNo) {
        let over = |of: &Peer| {
            of.parting.is_some()
                && of.transfers.is_empty()
                && of
                    .lanes
                    .iter()
                    .all(|lane| matches!(lane.state, State::Dead(_) | State::Absent) && lane.chunks == 0)
        };
        if !self.peers.get(&peer).is_some_and(over) {
            return;
        }
        let Some(of) = self.peers.remove(&peer) else { return };
        if self.names.get(&of.name) == Some(&peer) {
            self.names.remove(&of.name);
        }
        for lane in &of.lanes {
            let past = self.past.entry(Arc::clone(&lane.spec.label));
            past.or_insert_with(|| LaneView::past(&lane.spec)).add(&lane.counts);
        }
        self.timers.clear(Due::Again(peer));
        self.starved.remove(&peer);
        self.out.push_back(Command::Gone(peer, of.parting.unwrap_or(Error::Cancelled)));
    }

    pub(super) fn lane_mut(&mut self, lane: LaneNo) -> Option<&mut Lane> {
        self.peers.get_mut(&lane.peer)?.lanes.get_mut(usize::from(lane.index))
    }
}

pub(super) fn number(peer: PeerNo, index: usize) -> LaneNo {
    LaneNo { peer, index: u8::try_from(index).expect("a peer has at most 32 lanes") }
}
