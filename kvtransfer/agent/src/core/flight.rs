//! A chunk under way: from its begin over a lane, through its check, to its end; and what its failure leads to.

use super::command::Command;
use super::lane::State;
use super::timers::Due;
use super::transfer::Todo;
use super::{ChunkNo, Core, LaneNo, Time, TransferNo};
use crate::limits::{AGAIN_AFTER, MAX_ATTEMPTS};
use crate::{Error, Retry};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A fabric moves it.
    Moving,
    /// It has arrived, and both sides compute checksums.
    Checking,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) transfer: TransferNo,
    pub(super) lane: LaneNo,
    pub(super) todo: Todo,
    pub(super) stage: Stage,
    pub(super) begun: Time,
    /// Whether the fabric was told to end it.
    pub(super) stopped: bool,
}

impl Core {
    /// A chunk has ended: all its bytes are in place, or nothing of it touches memory any more. What is said of a chunk
    /// that has ended before is ignored: `false`.
    pub fn moved(&mut self, now: Time, chunk: ChunkNo, result: Result<(), Error>) -> bool {
        let Some(flight) = self.flights.get_mut(&chunk).filter(|flight| flight.stage == Stage::Moving) else {
            return false;
        };
        let transfer = &self.transfers[&flight.transfer];
        let verify = transfer.work.verify && flight.todo.piece.bytes > 0;
        match result {
            // It came too late to be checked, and counts for nothing.
            Ok(()) if verify && transfer.ending.is_some() => self.failed(now, chunk, Error::Cancelled),
            Ok(()) if verify => {
                flight.stage = Stage::Checking;
                self.timers.at(now + self.pace.chunk_within, Due::Flight(chunk));
                let (transfer, piece) = (flight.transfer, flight.todo.piece);
                self.out.push_back(Command::Check { chunk, transfer, piece });
            }
            Ok(()) => self.arrived(now, chunk),
            Err(error) => self.failed(now, chunk, error),
        }
        true
    }

    /// A chunk was checked: the bytes are the same on both sides, or [`Error::Corrupt`] names the segment that is not, or
    /// it could not be checked. `false` if nobody waits for that any more.
    pub fn checked(&mut self, now: Time, chunk: ChunkNo, result: Result<(), Error>) -> bool {
        if !self.flights.get(&chunk).is_some_and(|flight| flight.stage == Stage::Checking) {
            return false;
        }
        match result {
            Ok(()) => self.arrived(now, chunk),
            Err(error) => self.failed(now, chunk, error),
        }
        true
    }

    /// A chunk has not ended in time.
    pub(super) fn flight_due(&mut self, now: Time, chunk: ChunkNo) {
        let Some(flight) = self.flights.get_mut(&chunk) else { return };
        let lane = flight.lane;
        match (flight.stage, flight.stopped) {
            (Stage::Checking, _) => {
                self.out.push_back(Command::Forget(chunk));
                self.failed(now, chunk, Error::Stalled);
            }
            (Stage::Moving, false) => self.stop(now, chunk),
            // The fabric does not end it: parting from the peer over this lane must.
            (Stage::Moving, true) => self.leave(now, lane, Error::Stalled),
        }
    }

    /// Tells the fabric to end a chunk.
    pub(super) fn stop(&mut self, now: Time, chunk: ChunkNo) {
        let Some(flight) = self.flights.get_mut(&chunk).filter(|flight| !flight.stopped) else { return };
        flight.stopped = true;
        self.timers.at(now + self.pace.stop_within, Due::Flight(chunk));
        self.out.push_back(Command::Stop(chunk));
    }

    /// Fails all chunks that move over a lane. `settled`: nothing of them touches memory any more.
    pub(super) fn fail_moving(&mut self, now: Time, lane: LaneNo, why: &Error, settled: bool) {
        let moving = |flight: &Flight| flight.lane == lane && flight.stage == Stage::Moving;
        let mut chunks: Vec<ChunkNo> =
            self.flights.iter().filter(|(_, flight)| moving(flight)).map(|(chunk, _)| *chunk).collect();
        chunks.sort_unstable();
        for chunk in chunks {
            if !settled {
                // It must not be tried again where an old attempt may still write.
                let no = self.flights[&chunk].transfer;
                if let Some(of) = self.transfers.get_mut(&no) {
                    of.report.settled = false;
                }
                self.finish(now, no, Error::Stalled);
            }
            self.failed(now, chunk, why.clone());
        }
    }

    /// Takes a chunk off its lane.
    pub(super) fn land(&mut self, now: Time, chunk: ChunkNo) -> Option<Flight> {
        let flight = self.flights.remove(&chunk)?;
        self.timers.clear(Due::Flight(chunk));
        if let Some(lane) = self.lane_mut(flight.lane) {
            lane.end(now, flight.todo.piece.bytes);
        }
        if let Some(of) = self.transfers.get_mut(&flight.transfer) {
            of.flights.remove(&chunk);
        }
        Some(flight)
    }

    fn arrived(&mut self, now: Time, chunk: ChunkNo) {
        let Some(flight) = self.land(now, chunk) else { return };
        let Some(lane) = self.lane_mut(flight.lane) else { return };
        lane.failures = 0;
        lane.counts.bytes += flight.todo.piece.bytes;
        lane.counts.chunks += 1;
        let (label, way) = (lane.spec.label.clone(), lane.counts.way.clone());
        if let Some(of) = self.transfers.get_mut(&flight.transfer) {
            of.arrived(now, label, way, flight.begun, flight.todo.piece.bytes);
        }
        self.complete_if_over(now, flight.transfer);
        self.pump(now, flight.lane.peer);
        self.pump_starved(now);
    }

    fn failed(&mut self, now: Time, chunk: ChunkNo, error: Error) {
        let Some(flight) = self.land(now, chunk) else { return };
        let Some(of) = self.transfers.get_mut(&flight.transfer) else { return };
        if of.ending.is_none() {
            // That it was stopped for being slow is the reason, not that it says so.
            let error = if flight.stopped && flight.stage == Stage::Moving { Error::Stalled } else { error };
            self.try_again(now, &flight, error);
        } else {
            self.complete_if_over(now, flight.transfer);
        }
        self.pump(now, flight.lane.peer);
        self.pump_starved(now);
    }

    fn try_again(&mut self, now: Time, flight: &Flight, error: Error) {
        let Flight { transfer: no, todo, lane, .. } = *flight;
        let full = matches!(error.code(), "full");
        let attempts = todo.attempts.saturating_add(1);
        let Some(of) = self.lane_mut(lane) else { return };
        of.counts.retries += 1;
        let segment = match error {
            Error::Corrupt(segment, _) => {
                of.counts.corrupt += 1;
                segment
            }
            _ => todo.piece.first,
        };
        let label = of.spec.label.clone();
        let bit = 1_u32 << lane.index;
        let tried = if full { todo.tried } else { todo.tried | bit };
        let other = self.peers[&lane.peer].among(!tried);
        let elsewhere = other.into_iter().any(|(_, lane)| matches!(lane.state, State::Up | State::Untried));
        let Some(of) = self.transfers.get_mut(&no) else { return };
        of.failed(Retry { lane: label, error: error.clone(), segment, bytes: todo.piece.bytes });
        if !error.may_retry() || (attempts >= MAX_ATTEMPTS && !full) {
            let error =
                if matches!(error, Error::Corrupt(..)) { Error::Corrupt(segment, attempts) } else { error };
            self.finish(now, no, error);
            return;
        }
        let rest = AGAIN_AFTER * (1 << attempts.min(6));
        let not_before = if elsewhere && !full { now } else { now + rest };
        of.again.push_back(Todo { attempts, tried, not_before, ..todo });
        let (kind, was_in_ring) = (of.work.lanes, std::mem::replace(&mut of.in_ring, true));
        if let Some(peer) = self.peers.get_mut(&lane.peer) {
            if !was_in_ring {
                // It has had its turn already.
                peer.ring.push_front(no, kind);
            }
            peer.ring.set_special(no, true);
        }
        self.timers.by(not_before, Due::Again(lane.peer));
    }
}
