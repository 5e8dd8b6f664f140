//! One transfer: how far it is, and what will be told about it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use kvferry_transfer::fabric::Lane;

use super::cut::{Cut, Piece};
use super::{ChunkNo, Pace, PeerNo, Time, Work};
use crate::limits::MAX_LISTED;
use crate::{Error, LaneUse, Report, Retry};

/// A piece that is to be moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Todo {
    pub(super) piece: Piece,
    /// How often it was tried.
    pub(super) attempts: u8,
    /// The lanes that failed it.
    pub(super) tried: u32,
    /// When it may be tried again.
    pub(super) not_before: Time,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) peer: PeerNo,
    pub(super) work: Work,
    pub(super) begun: Time,
    cut: Cut,
    pub(super) again: VecDeque<Todo>,
    pub(super) flights: BTreeSet<ChunkNo>,
    /// Why it ends without having arrived, once that is so.
    pub(super) ending: Option<Error>,
    /// Bytes that it may still send in this turn.
    pub(super) deficit: u64,
    /// Whether it is in its peer's ring.
    pub(super) in_ring: bool,
    pub(super) report: Report,
    /// When each lane of the report carried its first.
    firsts: Vec<Time>,
}

impl Transfer {
    pub(super) fn new(peer: PeerNo, work: Work, now: Time, deficit: u64) -> Self {
        let report = Report { settled: true, verified: work.verify, ..Report::default() };
        let in_ring = !work.segments.is_empty();
        Self {
            peer,
            work,
            begun: now,
            cut: Cut::default(),
            again: VecDeque::new(),
            flights: BTreeSet::new(),
            ending: None,
            deficit,
            in_ring,
            report,
            firsts: Vec::new(),
        }
    }

    /// What is to be moved next, and may be now.
    pub(super) fn peek(&self, now: Time, pace: &Pace) -> Option<Todo> {
        if let Some(todo) = self.again.iter().find(|todo| todo.not_before <= now) {
            return Some(*todo);
        }
        let piece = self.cut.peek(&self.work.segments, pace.chunk_bytes, pace.chunk_segments)?;
        Some(Todo { piece, attempts: 0, tried: 0, not_before: Time::ZERO })
    }

    /// That is on its way.
    pub(super) fn pass(&mut self, todo: &Todo) {
        if let Some(at) = self.again.iter().position(|waiting| waiting.piece == todo.piece) {
            self.again.remove(at);
        } else {
            self.cut.pass(&self.work.segments, &todo.piece);
        }
    }

    /// Whether nothing is left to begin.
    pub(super) fn is_begun(&self) -> bool {
        self.again.is_empty() && self.cut.is_over(&self.work.segments)
    }

    /// A piece has arrived, over a lane on which it set out at `begun`.
    pub(super) fn arrived(
        &mut self,
        now: Time,
        lane: Arc<str>,
        way: Option<Arc<Lane>>,
        begun: Time,
        bytes: u64,
    ) {
        self.report.bytes += bytes;
        let known = self.report.lanes.iter().position(|of| of.lane == lane && of.way == way);
        let at = known.unwrap_or_else(|| {
            self.report.lanes.push(LaneUse { lane, way, bytes: 0, took: Time::ZERO, chunks: 0 });
            self.firsts.push(begun);
            self.firsts.len() - 1
        });
        self.firsts[at] = self.firsts[at].min(begun);
        let of = &mut self.report.lanes[at];
        of.bytes += bytes;
        of.chunks += 1;
        of.took = now.saturating_sub(self.firsts[at]);
    }

    /// A piece must be tried again.
    pub(super) fn failed(&mut self, retry: Retry) {
        self.report.retried += 1;
        if self.report.retries.len() < MAX_LISTED {
            self.report.retries.push(retry);
        }
    }
}
