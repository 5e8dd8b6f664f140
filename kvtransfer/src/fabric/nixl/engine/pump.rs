//! Posts requests, in turns: peers take turns, and with each peer its transfers do. So a transfer of 40 GiB and one of
//! 10 MiB share the way evenly for as long as both have something to move. And looks after those that are under way.

use std::time::Instant;

use super::Engine;
use crate::fabric::nixl::held::Held;
use crate::fabric::nixl::limits::{POSTS_AT_ONCE, REQUEST_BYTES, REQUEST_MOVES, WINDOW_REQUESTS};
use crate::fabric::nixl::raw::{Desc, Ended, Measured, Request, Status};
use crate::segment::Segment;
use crate::{Error, PeerId, TransferId};

/// A request under way.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) peer: PeerId,
    transfer: TransferId,
    request: Request,
}

impl Engine {
    /// A peer may have something to post.
    pub(super) fn activate(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.active && !peer.turns.is_empty() {
            peer.active = true;
            self.active.push_back(id);
        }
    }

    /// Gives some turns. Returns whether anything was posted.
    pub(super) fn pump(&mut self) -> bool {
        let mut any = false;
        for _ in 0..POSTS_AT_ONCE {
            let Some(id) = self.active.pop_front() else { break };
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.active = false;
            }
            if self.turn(id) {
                any = true;
                self.activate(id);
            }
        }
        any
    }

    /// One turn of one transfer. Whether the peer may have room for more.
    fn turn(&mut self, id: PeerId) -> bool {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_up()) else { return false };
        if peer.moving >= WINDOW_REQUESTS {
            return false;
        }
        let Some(transfer) = peer.turns.pop_front() else { return false };
        let Some(known) = self.transfers.get_mut(&transfer) else { return true };
        if known.all_posted {
            return true;
        }
        let since = Instant::now();
        match self.next_request(id, transfer) {
            Ok(Some(request)) => {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.turns.push_back(transfer);
                }
                self.post(Running { peer: id, transfer, request });
                self.shared.submitted(since.elapsed());
            }
            Ok(None) => {
                if let Some(known) = self.transfers.get_mut(&transfer) {
                    known.all_posted = true;
                }
                self.settle(transfer);
            }
            Err(why) => self.lose(id, &why),
        }
        true
    }

    /// What a transfer moves next; `None` at its end.
    fn next_request(&mut self, id: PeerId, transfer: TransferId) -> Result<Option<Request>, Error> {
        let (Some(peer), Some(known)) = (self.peers.get(&id), self.transfers.get_mut(&transfer)) else {
            return Ok(None);
        };
        let direction = known.request.direction;
        if let Some(blocks) = &mut known.blocks {
            let most = usize::try_from(REQUEST_BYTES / blocks.len).unwrap_or(1).clamp(1, REQUEST_MOVES);
            let next = blocks.next..blocks.here.len().min(blocks.next + most);
            if next.is_empty() {
                return Ok(None);
            }
            blocks.next = next.end;
            let (here, there) = (&blocks.here[next.clone()], &blocks.there[next]);
            let made = Request::of_blocks(direction, (&blocks.local, here), (&blocks.remote, there));
            return made.map(Some).map_err(refused);
        }
        let mapped = &self.mapped;
        let alike = |one: &Segment, other: &Segment| {
            let here = |of: &Segment| mapped.get(&of.local.region).map(|mapped| mapped.at.kind);
            let there = |of: &Segment| peer.keys.get(&of.remote.region).map(|at| at.kind);
            here(one) == here(other) && there(one) == there(other)
        };
        let moves = known.cursor.next(&known.request.segments, alike);
        let Some(first) = moves.first() else { return Ok(None) };
        let no_key = || Error::Lost("it allows bytes of a region that it gives no key to".into());
        let kind = peer.keys.get(&first.remote.region).ok_or_else(no_key)?.kind;
        let (mut held, mut descs) = (Held::default(), Vec::with_capacity(moves.len()));
        for one in &moves {
            let at = peer.keys.get(&one.remote.region).ok_or_else(no_key)?;
            if one.there().end().is_none_or(|end| end > at.len) {
                return Err(Error::Lost("it allows bytes beyond a region of its".into()));
            }
            let found = self.mapped.get(&one.local.region).map(|mapped| &mapped.registered);
            let local = held.number(one.local.region, found)?;
            let there = at.base + one.remote.offset;
            descs.push(Desc { local, offset: one.local.offset, there, device: at.device, len: one.len });
        }
        let name = peer.name.as_deref().ok_or_else(no_key)?;
        let made = Request::of(&self.agent, direction, held.all(), (name, kind), &descs);
        made.map(Some).map_err(refused)
    }

    fn post(&mut self, mut running: Running) {
        if let Some(peer) = self.peers.get_mut(&running.peer) {
            peer.moving += 1;
        }
        if let Some(transfer) = self.transfers.get_mut(&running.transfer) {
            transfer.moving += 1;
        }
        match running.request.post() {
            Ok(Ended::NotYet) => self.running.push(running),
            Ok(Ended::Yes) => self.ended(running, Ok(())),
            Err(status) => self.ended(running, Err(status)),
        }
    }

    /// Looks after the requests under way. Returns whether any has ended.
    pub(super) fn look(&mut self) -> bool {
        let (mut at, mut any) = (0, false);
        while let Some(running) = self.running.get_mut(at) {
            let result = match running.request.look() {
                Ok(Ended::NotYet) => {
                    at += 1;
                    continue;
                }
                Ok(Ended::Yes) => Ok(()),
                Err(status) => Err(status),
            };
            any = true;
            let running = self.running.swap_remove(at);
            self.ended(running, result);
        }
        any
    }

    fn ended(&mut self, running: Running, result: Result<(), Status>) {
        let Running { peer: id, transfer, request } = running;
        if self.options.telemetry
            && result.is_ok()
            && let Some(measured) = request.telemetry()
        {
            self.measured(measured);
        }
        drop(request);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.moving -= 1;
        }
        if let Some(known) = self.transfers.get_mut(&transfer) {
            known.moving -= 1;
        }
        if let Err(status) = result {
            self.broke(id, &status.to_string());
        } else {
            self.activate(id);
            self.settle(transfer);
        }
        self.part_on(id);
    }

    fn measured(&self, measured: Measured) {
        use std::sync::PoisonError;
        use std::time::Duration;
        // Sums are whole even after a panic.
        let mut all = self.shared.measured.lock().unwrap_or_else(PoisonError::into_inner);
        all.requests += 1;
        all.bytes += measured.bytes;
        all.moves += measured.descriptors;
        all.posting += Duration::from_micros(measured.posting_us);
        all.moving += Duration::from_micros(measured.moving_us);
    }
}

fn refused(status: Status) -> Error {
    Error::Lost(format!("NIXL cannot make a request to it: {status}"))
}
