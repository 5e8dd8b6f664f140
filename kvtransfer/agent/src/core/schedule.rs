//! Whose turn it is, and over which lane.
//!
//! Transfers with one peer take turns by deficit round robin: each turn allows it [`Pace::chunk_bytes`](super::Pace) times
//! its priority, so that bytes, not chunks or transfers, are shared out. A lane of a better tier is always preferred, and
//! waited for while it is merely full; among the lanes of a tier, the one with least under way is taken.

use super::command::Command;
use super::flight::{Flight, Stage};
use super::lane::{Lane, State};
use super::peer::{Peer, number};
use super::timers::Due;
use super::transfer::Todo;
use super::{ChunkNo, Core, PeerNo, Time, TransferNo};
use crate::Error;
use crate::limits::LANE_TRIES;

/// What an empty or tiny chunk is counted as: no chunk is free, or tiny ones would never give way.
const LEAST_COST: u64 = 4 << 10;

/// What can be done for a transfer now.
enum Turn {
    /// That, over the lane of that number.
    Go(Todo, usize),
    /// These lanes must be reached first.
    Reach(Vec<usize>),
    /// Nothing: what it needs is full, resting, or on the way.
    Wait,
    /// Nothing is left to begin.
    Over,
    /// It cannot be carried.
    Impossible(Error),
}

impl Core {
    /// Begins what can be begun with a peer.
    pub(super) fn pump(&mut self, now: Time, peer: PeerNo) {
        let mut at = 0;
        // Kinds of transfers of which none can begin anything now. Nothing that is done here changes that.
        let mut stuck: Vec<u32> = Vec::new();
        loop {
            let Some(of) = self.peers.get(&peer).filter(|of| of.parting.is_none()) else { return };
            let Some((no, kind)) = of.ring.get(at) else { return };
            if of.ring.are_all(&stuck) || all_full(of, &self.pace) {
                return;
            }
            let plain = !of.ring.is_special(no);
            if plain && stuck.contains(&kind) {
                at += 1;
                continue;
            }
            if self.flights.len() >= self.pace.chunks {
                self.starved.insert(peer);
                return;
            }
            match self.turn(now, of, no) {
                Turn::Wait => {
                    if plain {
                        stuck.push(kind);
                    }
                    self.wake_again(now, peer, no);
                    at += 1;
                }
                Turn::Over => self.take_out(no, at),
                Turn::Impossible(error) => self.finish(now, no, error),
                Turn::Reach(lanes) => {
                    for index in lanes {
                        self.reach(now, number(peer, index));
                    }
                }
                Turn::Go(todo, index) => {
                    if self.may_go(no, &todo) {
                        self.go(now, no, todo, index);
                    } else {
                        self.rotate(peer, at);
                    }
                }
            }
            if self.transfers.get(&no).is_some_and(|of| of.is_begun() && of.flights.is_empty()) {
                self.complete_if_over(now, no);
            }
        }
    }

    /// Sees to it that what rests is looked at when it has rested.
    fn wake_again(&mut self, now: Time, peer: PeerNo, no: TransferNo) {
        let resting = self.transfers.get(&no).into_iter().flat_map(|of| &of.again);
        let next = resting.map(|todo| todo.not_before).filter(|time| *time > now).min();
        if let Some(next) = next {
            self.timers.by(next, Due::Again(peer));
        }
    }

    /// Begins what there was no room for, until there is none.
    pub(super) fn pump_starved(&mut self, now: Time) {
        while self.flights.len() < self.pace.chunks
            && let Some(peer) = self.starved.pop_first()
        {
            self.pump(now, peer);
        }
    }

    fn turn(&self, now: Time, peer: &Peer, no: TransferNo) -> Turn {
        let Some(of) = self.transfers.get(&no) else { return Turn::Over };
        match of.peek(now, &self.pace) {
            Some(todo) => choose(peer, of.work.lanes, todo, &self.pace),
            None if of.is_begun() => Turn::Over,
            None => Turn::Wait,
        }
    }

    /// Whether its turn lasts for that.
    fn may_go(&mut self, no: TransferNo, todo: &Todo) -> bool {
        let cost = todo.piece.bytes.max(LEAST_COST);
        let Some(of) = self.transfers.get_mut(&no) else { return false };
        if of.deficit >= cost {
            of.deficit -= cost;
            return true;
        }
        let turn = self.pace.chunk_bytes.max(LEAST_COST).saturating_mul(of.work.priority.max(1).into());
        of.deficit = of.deficit.saturating_add(turn);
        false
    }

    fn rotate(&mut self, peer: PeerNo, at: usize) {
        if let Some(of) = self.peers.get_mut(&peer) {
            of.ring.rotate(at);
        }
    }

    fn take_out(&mut self, no: TransferNo, at: usize) {
        let Some(of) = self.transfers.get_mut(&no) else { return };
        of.in_ring = false;
        if let Some(peer) = self.peers.get_mut(&of.peer) {
            peer.ring.remove_at(at);
        }
    }

    fn go(&mut self, now: Time, no: TransferNo, todo: Todo, index: usize) {
        let Some(of) = self.transfers.get_mut(&no) else { return };
        let lane = number(of.peer, index);
        let Some(peer) = self.peers.get_mut(&of.peer) else { return };
        let best = peer.among(of.work.lanes & peer.present()).map(|(_, lane)| lane.spec.tier).min();
        if !of.report.fell_back && best < Some(peer.lanes[index].tier()) {
            of.report.fell_back = true;
            peer.lanes[index].counts.fallbacks += 1;
            let better = peer.among(of.work.lanes).filter(|(_, lane)| Some(lane.spec.tier) == best);
            let better: Vec<String> = better.map(|(_, lane)| lane.describe()).collect();
            let last = of.report.retries.last();
            let from =
                last.map_or_else(|| better.join("; "), |last| format!("{}: {}", last.lane, last.error));
            let to = peer.lanes[index].spec.label.clone();
            self.out.push_back(Command::FellBack { peer: of.peer, to, from });
        }
        of.pass(&todo);
        peer.ring.set_special(no, !of.again.is_empty());
        let chunk = ChunkNo(self.next_chunk);
        self.next_chunk += 1;
        of.flights.insert(chunk);
        peer.lanes[index].begin(now, todo.piece.bytes);
        self.timers.at(now + self.pace.chunk_within, Due::Flight(chunk));
        self.flights.insert(
            chunk,
            Flight { transfer: no, lane, todo, stage: Stage::Moving, begun: now, stopped: false },
        );
        self.out.push_back(Command::Move { chunk, lane, transfer: no, piece: todo.piece });
    }
}

/// Whether lanes are up, and nothing more fits on any of them: the usual case, told without looking at any transfer.
fn all_full(peer: &Peer, pace: &super::Pace) -> bool {
    let mut up = peer.lanes.iter().filter(|lane| lane.is_up()).peekable();
    let all_up =
        peer.lanes.iter().all(|lane| lane.is_up() || matches!(lane.state, State::Absent | State::Dead(_)));
    all_up && up.peek().is_some() && up.all(|lane| !lane.has_room(pace))
}

fn choose(peer: &Peer, mask: u32, todo: Todo, pace: &super::Pace) -> Turn {
    let least_used = |lanes: &mut dyn Iterator<Item = (usize, &Lane)>| {
        lanes
            .filter(|(_, lane)| lane.has_room(pace))
            .min_by_key(|(_, lane)| (lane.bytes, lane.chunks))
            .map(|(index, _)| index)
    };
    let mut tiers: Vec<u8> = peer.among(mask).map(|(_, lane)| lane.tier()).collect();
    tiers.sort_unstable();
    tiers.dedup();
    for tier in tiers {
        let fresh = || peer.among(mask & !todo.tried).filter(move |(_, lane)| lane.tier() == tier);
        if fresh().any(|(_, lane)| lane.is_up()) {
            let free = least_used(&mut fresh().filter(|(_, lane)| lane.is_up()));
            return free.map_or(Turn::Wait, |index| Turn::Go(todo, index));
        }
        let untried: Vec<usize> =
            fresh().filter(|(_, lane)| lane.state == State::Untried).map(|(index, _)| index).collect();
        if !untried.is_empty() {
            return Turn::Reach(untried);
        }
        if fresh().any(|(_, lane)| lane.state == State::Reaching && lane.failures == 0) {
            return Turn::Wait;
        }
    }
    if peer.among(mask).any(|(_, lane)| lane.is_up()) {
        let free = least_used(&mut peer.among(mask).filter(|(_, lane)| lane.is_up()));
        return free.map_or(Turn::Wait, |index| Turn::Go(todo, index));
    }
    let hope = |(_, lane): (usize, &Lane)| {
        matches!(lane.state, State::Reaching | State::Leaving(_) | State::Down(_))
            && lane.failures < LANE_TRIES
    };
    if peer.among(mask).any(hope) { Turn::Wait } else { Turn::Impossible(Error::NoLane(peer.describe(mask))) }
}
