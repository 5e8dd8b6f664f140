//! Transfers of this side: what is left to begin, what is under way, and how each ends, which it does exactly once.
//!
//! The race guarded here: a transfer fails while streams are writing to its destination. It counts how many do
//! (`touching`), and says that it has failed when none does any more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use bytes::Bytes;

use super::super::cut::{Cutter, Piece};
use super::super::numbers::ByNumber;
use super::super::orders::{Key, Order};
use super::State;
use super::mail::Mail;
use crate::fabric::{Direction, Event, Limits, Request};
use crate::{Error, PeerId, RegionId, Token, TransferId};

/// Something for a stream to begin.
#[derive(Debug)]
pub(in super::super) enum Work {
    Chunk(Chunk),
    /// A message, and the transfer that it ends.
    Mail(Bytes, Option<TransferId>),
}

/// A chunk to be moved.
#[derive(Debug)]
pub(in super::super) struct Chunk {
    pub(in super::super) transfer: TransferId,
    pub(in super::super) direction: Direction,
    pub(in super::super) token: Token,
    pub(in super::super) checked: bool,
    pub(in super::super) piece: Piece,
    /// To be delivered with the last byte, if this chunk is the whole of a write.
    pub(in super::super) message: Option<Bytes>,
}

#[derive(Debug)]
struct Transfer {
    peer: PeerId,
    direction: Direction,
    token: Token,
    checked: bool,
    cutter: Cutter,
    /// Chunks begun and not ended.
    pending: u64,
    /// Chunks whose bytes may be written somewhere right now: of a read those that arrive, of a write all that are begun.
    touching: u32,
    message: Option<Bytes>,
    /// Whether its message is on its way by itself.
    mailed: bool,
    /// Why it fails, once it does.
    failing: Option<Error>,
    /// Regions of this side that it names, each once.
    regions: Vec<RegionId>,
    /// Whether it is one chunk, whose end somebody is likely to wait for.
    brief: bool,
}

/// All that have not ended.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    all: ByNumber<TransferId, Transfer>,
    next: u64,
    deadlines: BinaryHeap<Reverse<(Instant, TransferId)>>,
    /// How many transfers name a region.
    regions: ByNumber<RegionId, usize>,
    /// How many are brief.
    brief: usize,
}

impl Transfers {
    pub(super) fn names(&self, region: RegionId) -> bool {
        self.regions.contains_key(&region)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Those whose deadline has passed, each once.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<TransferId> {
        let mut expired = Vec::new();
        while self.next_deadline().is_some_and(|deadline| deadline <= now) {
            expired.extend(self.deadlines.pop().map(|Reverse((_, transfer))| transfer));
        }
        expired
    }

    pub(super) fn peer(&self, transfer: TransferId) -> Option<PeerId> {
        self.all.get(&transfer).map(|transfer| transfer.peer)
    }

    /// It will fail for `error`, unless it fails already (`None`). Whether streams must be told to stop writing for it.
    pub(super) fn fail(&mut self, transfer: TransferId, error: Error) -> Option<bool> {
        let transfer = self.all.get_mut(&transfer).filter(|transfer| transfer.failing.is_none())?;
        transfer.failing = Some(error);
        Some(transfer.direction == Direction::Read && transfer.touching > 0)
    }

    pub(super) fn is_one(&self) -> bool {
        self.all.len() == 1
    }

    pub(super) fn are_brief(&self) -> bool {
        self.brief > 0 && self.brief == self.all.len()
    }

    fn add(&mut self, request: Request, brief: bool) -> TransferId {
        let id = TransferId(self.next);
        self.next += 1;
        let mut regions: Vec<RegionId> = Vec::new();
        for segment in &*request.segments {
            // Segments of one region follow each other, as a rule.
            if regions.last() != Some(&segment.local.region) && !regions.contains(&segment.local.region) {
                regions.push(segment.local.region);
            }
        }
        for region in &regions {
            *self.regions.entry(*region).or_default() += 1;
        }
        self.deadlines.extend(request.deadline.map(|deadline| Reverse((deadline, id))));
        let transfer = Transfer {
            peer: request.peer,
            direction: request.direction,
            token: request.token,
            checked: request.checksum,
            cutter: Cutter::new(request.segments),
            pending: 0,
            touching: 0,
            message: request.notify,
            mailed: false,
            failing: None,
            regions,
            brief,
        };
        self.brief += usize::from(brief);
        self.all.insert(id, transfer);
        id
    }

    fn remove(&mut self, id: TransferId) -> Option<Transfer> {
        let transfer = self.all.remove(&id)?;
        self.brief -= usize::from(transfer.brief);
        for region in &transfer.regions {
            if let Some(count) = self.regions.get_mut(region) {
                *count -= 1;
                if *count == 0 {
                    self.regions.remove(region);
                }
            }
        }
        // Deadlines of what has ended would pile up until they come.
        if self.deadlines.len() > 64 && self.deadlines.len() > 2 * self.all.len() {
            let all = &self.all;
            self.deadlines.retain(|Reverse((_, id))| all.contains_key(id));
        }
        Some(transfer)
    }

    /// The next chunk of a transfer, and whether there are more; `None` if it has none.
    fn chunk(&mut self, id: TransferId) -> Option<(Chunk, bool)> {
        let transfer = self.all.get_mut(&id).filter(|transfer| transfer.failing.is_none())?;
        let whole = transfer.cutter.untouched();
        let piece = transfer.cutter.next()?;
        let more = !transfer.cutter.ended();
        transfer.pending += 1;
        let writes = transfer.direction == Direction::Write;
        transfer.touching += u32::from(writes);
        let chunk = Chunk {
            transfer: id,
            direction: transfer.direction,
            token: transfer.token,
            checked: transfer.checked,
            piece,
            // An empty message cannot be told from none in that frame; it goes by itself.
            message: transfer.message.take_if(|message| writes && whole && !more && !message.is_empty()),
        };
        Some((chunk, more))
    }
}

impl State {
    /// # Errors
    /// [`Error::Closed`], [`Error::UnknownPeer`], [`Error::Full`]. The rest of a request is checked by who calls, who also
    /// knows whether it is `brief`: no more than a chunk.
    pub(in super::super) fn submit(
        &mut self,
        request: Request,
        brief: bool,
        now: Instant,
    ) -> Result<TransferId, Error> {
        self.open()?;
        let peer = self.peers.get_mut(&request.peer).filter(|peer| !peer.ending());
        let peer = peer.ok_or(Error::UnknownPeer(request.peer))?;
        if self.transfers.all.len() >= Limits::MAX_TRANSFERS {
            return Err(Error::Full("transfers under way (16,384)"));
        }
        if let Some(message) = &request.notify {
            peer.mailbox.reserve(message.len())?;
        }
        let several = request.segments.len() > 1;
        let deadline = request.deadline;
        let id = self.transfers.add(request, brief);
        peer.transfers.insert(id);
        peer.turns.join(id);
        let fed = peer.wake(several);
        self.orders.extend(fed.into_iter().map(Order::Feed));
        match deadline {
            // Nothing of it is begun: a write could not be taken back from a peer that does not answer.
            Some(deadline) if deadline <= now => self.fail(id, Error::Deadline),
            Some(deadline) => self.look_by(deadline),
            None => {}
        }
        Ok(id)
    }

    /// Ends a transfer early.
    pub(in super::super) fn cancel(&mut self, transfer: TransferId) {
        self.fail(transfer, Error::Cancelled);
    }

    /// What a stream to a peer is to begin next. If there is nothing, it will be fed once there is.
    pub(in super::super) fn next(&mut self, peer: PeerId, key: Key) -> Option<Work> {
        let Self { peers, transfers, .. } = self;
        let peer = peers.get_mut(&peer).filter(|peer| peer.up() && !peer.ending())?;
        if peer.control() == Some(key) {
            while let Some(mail) = peer.mailbox.queue.pop_front() {
                match mail {
                    Mail::Plain(message) => return Some(Work::Mail(message, None)),
                    Mail::After(id) => {
                        let live = transfers.all.get_mut(&id).filter(|transfer| transfer.failing.is_none());
                        if let Some(message) = live.and_then(|transfer| transfer.message.take()) {
                            return Some(Work::Mail(message, Some(id)));
                        }
                    }
                }
            }
        }
        let chunk = peer.turns.next(|id| transfers.chunk(id));
        if chunk.is_none() {
            peer.hungers(key);
        }
        chunk.map(Work::Chunk)
    }

    /// Bytes of a read have come: whether they are still wanted, and then written to their places until
    /// [`chunk_ended`](Self::chunk_ended) or [`chunk_dropped`](Self::chunk_dropped).
    pub(in super::super) fn chunk_lands(&mut self, transfer: TransferId) -> bool {
        let live = self.transfers.all.get_mut(&transfer).filter(|transfer| transfer.failing.is_none());
        live.map(|transfer| transfer.touching += 1).is_some()
    }

    /// A chunk that was touched has come to its end.
    pub(in super::super) fn chunk_ended(&mut self, id: TransferId, how: Result<(), Error>) {
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        transfer.touching -= 1;
        match how {
            Ok(()) => transfer.pending -= 1,
            Err(error) => self.fail(id, error),
        }
        // Also if it fails already for another reason: it may have waited for this chunk.
        self.conclude(id);
    }

    /// Bytes that came for it are thrown away from here on.
    pub(in super::super) fn chunk_dropped(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        transfer.touching -= 1;
        self.conclude(id);
    }

    /// The peer does not give what was to be read.
    pub(in super::super) fn chunk_refused(&mut self, transfer: TransferId, error: Error) {
        self.fail(transfer, error);
    }

    /// The peer has a transfer's message.
    pub(in super::super) fn mail_taken(&mut self, id: TransferId) {
        if let Some(transfer) = self.transfers.all.get_mut(&id) {
            transfer.mailed = false;
            self.conclude(id);
        }
    }

    /// Ends a transfer if there is nothing left to wait for.
    pub(super) fn conclude(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.all.get_mut(&id) else { return };
        if let Some(error) = &transfer.failing {
            if transfer.touching == 0 {
                let event = Event::Failed(id, error.clone());
                self.end(id, event);
            }
        } else if transfer.cutter.ended() && transfer.pending == 0 {
            if transfer.message.is_some() {
                if !std::mem::replace(&mut transfer.mailed, true) {
                    let peer = transfer.peer;
                    self.mail_after(peer, id);
                }
            } else if !transfer.mailed {
                self.end(id, Event::Done(id));
            }
        }
    }

    /// Whatever it waits for: its peer's streams are closed, so nothing touches its places.
    pub(super) fn end_lost(&mut self, id: TransferId, error: &Error) {
        let Some(transfer) = self.transfers.all.get(&id) else { return };
        let error = transfer.failing.clone().unwrap_or_else(|| error.clone());
        self.end(id, Event::Failed(id, error));
    }

    fn end(&mut self, id: TransferId, event: Event) {
        let Some(transfer) = self.transfers.remove(id) else { return };
        if let Some(peer) = self.peers.get_mut(&transfer.peer) {
            peer.transfers.remove(&id);
            if let Some(message) = transfer.message {
                peer.mailbox.release(1, message.len());
            }
        }
        self.event(event);
    }
}
