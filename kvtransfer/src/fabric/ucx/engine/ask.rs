//! Transfers of this side. Each asks the owner of the memory first, moves its bytes when it may, and says when it touches
//! them no more. Its event comes after that: when UCX has let go of everything.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::Engine;
use super::clock::Due;
use super::hash::Job;
use crate::fabric::common::{Alarm, Ranges, regions};
use crate::fabric::ucx::cut::{Cursor, joined};
use crate::fabric::ucx::limits::{ASK_PART, MESSAGE_OVERHEAD, UNSENT_LOW};
use crate::fabric::ucx::message::{Message, Reason, Violation};
use crate::fabric::{Direction, Event, Request};
use crate::segment::{Segment, Span};
use crate::{Error, PeerId, RegionId, TransferId};

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The owner has not said yet whether it may.
    Asking,
    /// Bytes move.
    Moving,
    /// They have moved, and are compared with what they were.
    Verifying,
}

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) request: Request,
    pub(super) stage: Stage,
    /// The regions here that it names.
    regions: Vec<RegionId>,
    deadline: Option<Alarm>,
    pub(super) cursor: Cursor,
    /// Whether there is nothing more to post.
    pub(super) all_posted: bool,
    /// Operations under way.
    pub(super) moving: usize,
    /// Whether something was written that no flush has been asked for.
    pub(super) unflushed: bool,
    pub(super) flushing: bool,
    /// Why it is given up.
    ending: Option<Error>,
    /// Checksums: this side's, once they are known, and the peer's, as far as they have come.
    pub(super) ours: Option<Vec<u32>>,
    pub(super) theirs: Vec<u32>,
}

/// Requests that are not wholly said. Short ones overtake the parts of long ones, of which one is said at a time.
#[derive(Debug, Default)]
pub(super) struct Asks {
    short: VecDeque<Asking>,
    long: VecDeque<Asking>,
}

#[derive(Debug)]
struct Asking {
    id: TransferId,
    spans: Vec<Span>,
    said: usize,
}

impl Asks {
    fn add(&mut self, id: TransferId, spans: Vec<Span>) {
        let line = if spans.len() <= ASK_PART { &mut self.short } else { &mut self.long };
        line.push_back(Asking { id, spans, said: 0 });
    }

    /// The next part to say: whose, how many ranges it has in all, and these of them, the first ones or not.
    fn next(&mut self) -> Option<(TransferId, usize, Vec<u8>, bool)> {
        // A long one that has begun takes turns with short ones; it goes on whenever there is none.
        let mut asking = self.short.pop_front().or_else(|| self.long.pop_front())?;
        let part = &asking.spans[asking.said..asking.spans.len().min(asking.said + ASK_PART)];
        let (encoded, first) = (Ranges::encode(part), asking.said == 0);
        let (id, count) = (asking.id, asking.spans.len());
        asking.said += part.len();
        if asking.said < count {
            self.long.push_front(asking);
        }
        Some((id, count, encoded, first))
    }

    /// Takes one back. Whether the peer must be told: it has heard a part.
    fn withdraw(&mut self, id: TransferId) -> bool {
        let mut half_said = false;
        for line in [&mut self.short, &mut self.long] {
            line.retain(|asking| {
                half_said |= asking.id == id && asking.said > 0;
                asking.id != id
            });
        }
        half_said
    }
}

impl Engine {
    /// Begins a transfer.
    pub(super) fn begin(&mut self, id: TransferId, request: Request) {
        let Some(peer) = self.peers.get_mut(&request.peer) else {
            return self.refuse(id, &request, Error::UnknownPeer(request.peer));
        };
        if request.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return self.refuse(id, &request, Error::Deadline);
        }
        let peer_id = request.peer;
        // With checksums, the ranges are those that the sums are of.
        let spans =
            if request.checksum { ranges(&request.segments).collect() } else { joined(&request.segments) };
        peer.asks.add(id, spans);
        let deadline = request.deadline.map(|deadline| self.timers.add(deadline, Due::Transfer(id)));
        let transfer = Transfer {
            regions: regions(&request.segments),
            stage: Stage::Asking,
            deadline,
            cursor: Cursor::default(),
            all_posted: false,
            moving: 0,
            unflushed: false,
            flushing: false,
            ending: None,
            ours: None,
            theirs: Vec::new(),
            request,
        };
        self.transfers.insert(id, transfer);
        self.ask_on(peer_id);
    }

    /// Says parts of requests, as far as there is room.
    pub(super) fn ask_on(&mut self, id: PeerId) {
        while let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_up() && peer.unsent < UNSENT_LOW)
            && let Some((transfer, count, encoded, first)) = peer.asks.next()
        {
            let Some(Transfer { request, .. }) = self.transfers.get(&transfer) else { continue };
            let (direction, token, checksum) = (request.direction, request.token, request.checksum);
            let (number, part) = (transfer.0, Ranges::of(&encoded));
            let message = if first {
                Message::Ask { id: number, direction, token, checksum, count, part }
            } else {
                Message::More { id: number, part }
            };
            self.say(id, &message);
        }
    }

    /// Ends a transfer early, for that reason.
    pub(super) fn give_up(&mut self, id: TransferId, why: Error) {
        let Some(transfer) = self.transfers.get_mut(&id).filter(|transfer| transfer.ending.is_none()) else {
            return;
        };
        let peer_id = transfer.request.peer;
        let Some(peer) = self.peers.get_mut(&peer_id).filter(|peer| !peer.is_parting()) else { return };
        match (transfer.stage, transfer.request.direction) {
            (Stage::Asking, _) => {
                // Nothing moves before the owner allows it, and that is answered when it comes.
                if peer.asks.withdraw(id) {
                    self.say(peer_id, &Message::Never(id.0));
                }
                self.end(id, Err(why));
            }
            (Stage::Moving, _) => {
                transfer.ending = Some(why);
                transfer.all_posted = true;
                self.timers.add(Instant::now() + self.options.stop_within, Due::Stuck(id));
                self.settle(id);
            }
            (Stage::Verifying, Direction::Read) => {
                self.say(peer_id, &Message::Over { id: id.0, done: false, message: None });
                self.end(id, Err(why));
            }
            // Written it is; the owner verifies what it has, and tells nobody.
            (Stage::Verifying, Direction::Write) => self.end(id, Err(why)),
        }
    }

    /// The owner allows a transfer.
    pub(super) fn go(&mut self, peer: PeerId, id: TransferId) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.get_mut(&id) else {
            // It was given up meanwhile.
            self.say(peer, &Message::Over { id: id.0, done: false, message: None });
            return Ok(());
        };
        if transfer.request.peer != peer || transfer.stage != Stage::Asking {
            return Err(NOT_ASKED);
        }
        transfer.stage = Stage::Moving;
        if transfer.request.checksum && transfer.request.direction == Direction::Write {
            let spans = here(&transfer.request.segments);
            self.begin_hashing(Job::Mine(id), spans);
        }
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.turns.push_back(id);
        }
        self.activate(peer);
        Ok(())
    }

    /// The owner does not allow it.
    pub(super) fn answered_no(
        &mut self,
        peer: PeerId,
        id: TransferId,
        reason: Reason,
    ) -> Result<(), Violation> {
        match self.transfers.get(&id) {
            // It was given up meanwhile.
            None => Ok(()),
            Some(transfer) if transfer.request.peer == peer && transfer.stage == Stage::Asking => {
                self.end(id, Err(reason.error()));
                Ok(())
            }
            Some(_) => Err(NOT_ASKED),
        }
    }

    /// The owner wants its bytes back.
    pub(super) fn told_to_stop(&mut self, peer: PeerId, id: TransferId, reason: Reason) {
        if self.transfers.get(&id).is_some_and(|transfer| transfer.request.peer == peer) {
            self.give_up(id, reason.error());
        }
    }

    /// Goes on with a transfer whose operations have ended, if they all have.
    pub(super) fn settle(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let peer_id = transfer.request.peer;
        let Some(peer) = self.peers.get_mut(&peer_id).filter(|peer| peer.is_up()) else { return };
        if transfer.stage != Stage::Moving || !transfer.all_posted || transfer.flushing {
            return;
        }
        // A flush is of all that was posted before, ended or not.
        if transfer.unflushed {
            let Some(endpoint) = &peer.endpoint else { return };
            (transfer.unflushed, transfer.flushing) = (false, true);
            peer.moving += 1;
            let op = super::Op::Flush(peer_id, id);
            let posted = self.worker.flush(endpoint, op);
            return self.posted(op, posted);
        }
        if transfer.moving > 0 {
            return;
        }
        if let Some(why) = transfer.ending.take() {
            self.say(peer_id, &Message::Over { id: id.0, done: false, message: None });
            return self.end(id, Err(why));
        }
        match (transfer.request.direction, transfer.request.checksum) {
            (_, false) => self.all_moved(id),
            (Direction::Read, true) => {
                transfer.stage = Stage::Verifying;
                let spans = here(&transfer.request.segments);
                self.begin_hashing(Job::Mine(id), spans);
            }
            // The owner judges, once it has the sums and hears that all has moved.
            (Direction::Write, true) if transfer.ours.is_some() => {
                transfer.stage = Stage::Verifying;
                let message = transfer.request.notify.take();
                self.say(peer_id, &Message::Over { id: id.0, done: true, message: message.as_deref() });
            }
            (Direction::Write, true) => {}
        }
    }

    /// All is where it belongs.
    fn all_moved(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let (peer, message) = (transfer.request.peer, transfer.request.notify.take());
        self.end(id, Ok(()));
        self.say(peer, &Message::Over { id: id.0, done: true, message: message.as_deref() });
    }

    /// This side's checksums are known.
    pub(super) fn hashed_mine(&mut self, id: TransferId, sums: Vec<u32>) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        let peer = transfer.request.peer;
        if transfer.request.direction == Direction::Write {
            self.say_sums(peer, id.0, Direction::Write, &sums);
        }
        if let Some(transfer) = self.transfers.get_mut(&id) {
            transfer.ours = Some(sums);
        }
        self.compare(id);
        self.settle(id);
    }

    /// Compares a read's sums once both sides' are here.
    pub(super) fn compare(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get(&id).filter(|transfer| transfer.stage == Stage::Verifying)
        else {
            return;
        };
        let Some(ours) = &transfer.ours else { return };
        if transfer.request.direction != Direction::Read || ours.len() != transfer.theirs.len() {
            return;
        }
        let wrong = ours.iter().zip(&transfer.theirs).position(|(ours, theirs)| ours != theirs);
        let Some(wrong) = wrong else { return self.all_moved(id) };
        let peer = transfer.request.peer;
        let error = corrupt(here(&transfer.request.segments).get(wrong).copied());
        self.say(peer, &Message::Over { id: id.0, done: false, message: None });
        self.end(id, Err(error));
    }

    /// The owner has compared what was written.
    pub(super) fn judged(
        &mut self,
        peer: PeerId,
        id: TransferId,
        wrong: Option<u32>,
    ) -> Result<(), Violation> {
        let Some(transfer) = self.transfers.get(&id) else { return Ok(()) };
        let request = &transfer.request;
        if request.peer != peer || transfer.stage != Stage::Verifying || request.direction != Direction::Write
        {
            return Err(NOT_ASKED);
        }
        let result = wrong.map_or(Ok(()), |wrong| {
            Err(corrupt(usize::try_from(wrong).ok().and_then(|wrong| ranges(&request.segments).nth(wrong))))
        });
        self.end(id, result);
        Ok(())
    }

    /// Tells how a transfer has ended.
    pub(super) fn end(&mut self, id: TransferId, result: Result<(), Error>) {
        let Some(transfer) = self.transfers.remove(&id) else { return };
        self.timers.remove(transfer.deadline);
        let result = result.map_err(|error| transfer.ending.unwrap_or(error));
        self.told(id, &transfer.regions, transfer.request.peer, transfer.request.notify.as_ref(), result);
    }

    /// Tells that a transfer has not even begun.
    pub(super) fn refuse(&mut self, id: TransferId, request: &Request, why: Error) {
        self.told(id, &regions(&request.segments), request.peer, request.notify.as_ref(), Err(why));
    }

    fn told(
        &mut self,
        id: TransferId,
        regions: &[RegionId],
        peer: PeerId,
        unsaid: Option<&Bytes>,
        result: Result<(), Error>,
    ) {
        let mut pages = self.shared.ledger.pages();
        pages.end(regions);
        if let (Err(_), Some(message), Some(known)) = (&result, unsaid, pages.peer(peer)) {
            known.unpolled = known.unpolled.saturating_sub(message.len() + MESSAGE_OVERHEAD);
        }
        self.shared.ledger.events.push(match result {
            Ok(()) => Event::Done(id),
            Err(error) => Event::Failed(id, error),
        });
    }

    /// Sends a message of the caller's.
    pub(super) fn notify(&mut self, peer: PeerId, message: &Bytes) {
        if self.peers.get(&peer).is_some_and(super::peer::Peer::is_up) {
            self.say(peer, &Message::Notify(message));
        }
    }
}

const NOT_ASKED: Violation = Violation("an answer to what was not asked");

fn corrupt(span: Option<Span>) -> Error {
    let at = span.map_or((RegionId(0), 0), |span| (span.at.region, span.at.offset));
    Error::Corrupt(at.0, at.1)
}

/// The ranges at the peer that have bytes.
fn ranges(segments: &[Segment]) -> impl Iterator<Item = Span> {
    segments.iter().map(Segment::there).filter(|span| span.len > 0)
}

/// The ranges here that have bytes.
fn here(segments: &[Segment]) -> Vec<Span> {
    segments.iter().map(Segment::here).filter(|span| span.len > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_request_overtakes_the_parts_of_a_long_one_and_nothing_is_lost() {
        let spans = |count| vec![Span::new(RegionId(0), 0, 1); count];
        let mut asks = Asks::default();
        asks.add(TransferId(1), spans(3 * ASK_PART + 1));
        asks.add(TransferId(2), spans(2 * ASK_PART));
        assert!(matches!(asks.next(), Some((TransferId(1), _, _, true))));
        asks.add(TransferId(3), spans(1));
        let said: Vec<_> =
            std::iter::from_fn(|| asks.next().map(|part| (part.0.0, part.2.len() / 20))).collect();
        let part = ASK_PART;
        assert_eq!(said, [(3, 1), (1, part), (1, part), (1, 1), (2, part), (2, part)]);
    }

    #[test]
    fn the_peer_hears_of_a_request_taken_back_only_if_it_has_heard_of_the_request() {
        let mut asks = Asks::default();
        for id in 1..4 {
            asks.add(TransferId(id), vec![Span::new(RegionId(0), 0, 1); 2 * ASK_PART]);
        }
        asks.next();
        assert!(asks.withdraw(TransferId(1)));
        assert!(!asks.withdraw(TransferId(2)) && !asks.withdraw(TransferId(9)));
        assert!(matches!(asks.next(), Some((TransferId(3), ..))));
    }

    #[test]
    fn a_request_for_nothing_is_said_too() {
        let mut asks = Asks::default();
        asks.add(TransferId(1), Vec::new());
        assert_eq!(asks.next(), Some((TransferId(1), 0, Vec::new(), true)));
        assert_eq!(asks.next(), None);
    }
}
