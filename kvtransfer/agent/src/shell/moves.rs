//! Transfers of the owner, and chunks of the core's as transfers of a fabric.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kvferry_transfer::fabric::{Direction, Request, destinations_overlap};
use kvferry_transfer::memory::Kind;
use kvferry_transfer::{RegionId, Segment, Token, TransferId};

use super::Ask;
use super::run::Shell;
use crate::books::lock;
use crate::core::{ChunkNo, LaneNo, PeerNo, Piece, TransferNo, Work};
use crate::events::Of;
use crate::limits::MAX_PRIORITY;
use crate::transfer::{Answer, nothing};
use crate::{Error, Failure, Report};

/// A transfer that has not ended.
#[derive(Debug)]
pub(super) struct Moving {
    ticket: u64,
    pub(super) peer: Arc<Of>,
    pub(super) direction: Direction,
    pub(super) token: Token,
    pub(super) segments: Arc<[Segment]>,
    deadline: std::time::Instant,
    notify: Option<Bytes>,
    /// This side's regions that it names.
    regions: Vec<RegionId>,
    answer: Answer,
}

impl Moving {
    /// The agent is closed.
    pub(super) fn close(self) {
        let mut failure = nothing(Error::Closed);
        failure.report.settled = false;
        drop(self.answer.send(Err(Box::new(failure))));
    }
}

impl Shell {
    /// Begins what the owner wants moved.
    pub(super) fn begin(&mut self, ask: Ask, answer: Answer) {
        match self
            .examine(&ask)
            .and_then(|(work, regions)| Ok((self.core.begin(self.now(), ask.peer.no, work)?, regions)))
        {
            Ok((no, regions)) => {
                lock(&self.shared.regions).begin(&regions);
                let Ask { ticket, peer, direction, token, segments, options } = ask;
                let (deadline, notify) = (options.deadline, options.notify);
                let moving =
                    Moving { ticket, peer, direction, token, segments, deadline, notify, regions, answer };
                self.tickets.insert(ticket, no);
                self.transfers.insert(no, moving);
            }
            Err(error) => {
                self.shared.transfers.fetch_sub(1, Ordering::Relaxed);
                if let Some(message) = &ask.options.notify {
                    ask.peer.release(message.len());
                }
                drop(answer.send(Err(Box::new(nothing(error)))));
            }
        }
    }

    /// What the core must know of it, and which of this side's regions it names.
    fn examine(&self, ask: &Ask) -> Result<(Work, Vec<RegionId>), Error> {
        let met = self.peers.get(&ask.peer.no).filter(|_| self.core.is_up(ask.peer.no));
        let met = met.ok_or_else(|| self.not_there(&ask.peer))?;
        let own = lock(&self.shared.regions);
        let (mut lanes, mut named) = (u32::MAX, Vec::new());
        let mut last = None;
        for segment in &*ask.segments {
            let entry = own.check(&segment.here())?;
            let there = segment.there();
            let remote = met.regions.get(&there.at.region).ok_or(Error::UnknownRemote(there.at.region))?;
            if there.end().is_none_or(|end| end > remote.len) {
                return Err(kvferry_transfer::Error::OutOfRegion(there.at.region, remote.len).into());
            }
            // Segments of one pair of regions follow each other, as a rule.
            if last.replace((segment.local.region, there.at.region)) == last {
                continue;
            }
            if !named.contains(&segment.local.region) {
                named.push(segment.local.region);
            }
            if ask.options.verify
                && let Some(kind) =
                    [entry.region.kind(), remote.kind].into_iter().find(|kind| *kind != Kind::Host)
            {
                return Err(Error::Unchecked(kind.name()));
            }
            lanes &= self.lanes_between(ask.peer.no, &entry.ids, &remote.ids);
        }
        let destinations = ask.segments.iter().map(|segment| match ask.direction {
            Direction::Read => segment.here(),
            Direction::Write => segment.there(),
        });
        if destinations_overlap(destinations) {
            return Err(kvferry_transfer::Error::Overlap.into());
        }
        let work = Work {
            segments: Arc::clone(&ask.segments),
            direction: ask.direction,
            deadline: self.time(ask.options.deadline),
            priority: ask.options.priority.clamp(1, MAX_PRIORITY),
            verify: ask.options.verify,
            notify: ask.options.notify.is_some(),
            lanes,
        };
        Ok((work, named))
    }

    /// Why a peer cannot be used: another life of it may be there.
    fn not_there(&self, peer: &Of) -> Error {
        let newer = self
            .peers
            .values()
            .find(|met| *met.handle.name() == peer.name && met.handle.epoch() != peer.epoch);
        match newer {
            Some(met) => Error::StaleEpoch(peer.epoch, met.handle.epoch()),
            None => Error::UnknownPeer(format!("{}@{}", peer.name, peer.epoch)),
        }
    }

    /// The lanes over which both of these regions can be reached, a bit for each.
    fn lanes_between(&self, peer: PeerNo, own: &[Option<RegionId>], remote: &[Option<RegionId>]) -> u32 {
        let mut mask = 0;
        for index in 0..32 {
            let Some(path) = self.lanes.get(&LaneNo { peer, index }) else { break };
            let both = own.get(path.own).copied().flatten().and(remote.get(path.theirs).copied().flatten());
            if both.is_some() {
                mask |= 1 << index;
            }
        }
        mask
    }

    /// Begins a chunk over a fabric.
    pub(super) fn begin_chunk(&mut self, chunk: ChunkNo, lane: LaneNo, transfer: TransferNo, piece: Piece) {
        let now = self.now();
        match self.submit(lane, transfer, piece) {
            Ok((fabric, id)) => {
                self.chunks.insert(chunk, (lane, fabric, id));
                self.ids.insert((fabric, id), chunk);
            }
            Err(error) => {
                self.core.moved(now, chunk, Err(error));
            }
        }
    }

    fn submit(&self, lane: LaneNo, transfer: TransferNo, piece: Piece) -> Result<(usize, TransferId), Error> {
        let gone = || Error::PeerLost("the lane was left".into());
        let path = self.lanes.get(&lane).ok_or_else(gone)?;
        let peer = path.id.ok_or_else(gone)?;
        let (of, met) =
            (self.transfers.get(&transfer).ok_or_else(gone)?, self.peers.get(&lane.peer).ok_or_else(gone)?);
        let segments = {
            let own = lock(&self.shared.regions);
            let translated = piece.ranges(&of.segments).map(|(_, range)| {
                let mut range = range;
                let ids = &own.get(range.local.region)?.ids;
                // Lanes that lack one of its regions are not among those of the transfer, unless the peer has forgotten it.
                range.local.region = ids[path.own].ok_or_else(gone)?;
                let remote = met.regions.get(&range.remote.region);
                let remote = remote.ok_or(Error::UnknownRemote(range.remote.region))?;
                range.remote.region = remote.ids[path.theirs].ok_or_else(gone)?;
                Ok(range)
            });
            translated.collect::<Result<Arc<[Segment]>, Error>>()?
        };
        let request = Request {
            peer,
            direction: of.direction,
            token: of.token,
            segments,
            notify: None,
            deadline: Some(of.deadline),
            checksum: false,
        };
        let id = self.shared.carriers[path.own].fabric.submit(request)?;
        Ok((path.own, id))
    }

    pub(super) fn stop_chunk(&mut self, chunk: ChunkNo) {
        if let Some((_, fabric, id)) = self.chunks.get(&chunk) {
            self.shared.carriers[*fabric].fabric.cancel(*id);
        }
    }

    /// A transfer of a fabric has ended. One that nobody waits for any more is ignored.
    pub(super) fn moved(&mut self, fabric: usize, id: TransferId, result: Result<(), Error>) {
        let Some(chunk) = self.ids.remove(&(fabric, id)) else { return };
        self.chunks.remove(&chunk);
        let now = self.now();
        self.core.moved(now, chunk, result);
    }

    /// All of a transfer has arrived, and the peer is to know.
    pub(super) fn tell_peer(&mut self, transfer: TransferNo) {
        let Some(of) = self.transfers.get_mut(&transfer) else { return };
        let (peer, message) = (of.peer.no, of.notify.take());
        if let Some(message) = message {
            self.say_notify(peer, message);
        }
    }

    /// A transfer has ended.
    pub(super) fn end(&mut self, transfer: TransferNo, result: Result<Report, Box<Failure>>) {
        let Some(of) = self.transfers.remove(&transfer) else { return };
        self.tickets.remove(&of.ticket);
        lock(&self.shared.regions).end(&of.regions);
        self.shared.transfers.fetch_sub(1, Ordering::Relaxed);
        if let Some(unsent) = &of.notify {
            of.peer.release(unsent.len());
        }
        if let Err(failure) = &result {
            tracing::debug!(peer = %of.peer.name, error = %failure, "a transfer has failed");
        }
        // Whoever has dropped it does not want to know.
        drop(of.answer.send(result));
    }
}
