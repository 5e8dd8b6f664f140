//! The side of a stream that asks: it begins chunks and messages as long as there is room, and knows which answers are
//! due.

use std::collections::VecDeque;

use super::super::digest::Digest;
use super::super::limits::{SHORT_ANSWER, UNSENT_LOW, WINDOW_CHUNKS};
use super::super::memory::Ranges;
use super::super::orders::Key;
use super::super::state::{Chunk, Work};
use super::super::wire::{self, Answer, Head, Kind, Violation, ask};
use super::Context;
use super::outbox::Outbox;
use super::receive::{Arriving, Purpose, Sink};
use crate::fabric::Direction;
use crate::segment::{Segment, joined};
use crate::{Error, PeerId, Place, RegionId, TransferId};

/// A chunk whose answer is due.
#[derive(Debug)]
struct Flight {
    id: u64,
    transfer: TransferId,
    segments: Vec<Segment>,
    bytes: u64,
    checked: bool,
    /// Bytes of the message that went with it.
    message: Option<usize>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Initiator {
    peer: PeerId,
    /// Bytes that may be under way.
    window: u64,
    flying: u64,
    next_id: u64,
    /// In the order of their answers.
    reads: VecDeque<Flight>,
    writes: VecDeque<Flight>,
    mails: VecDeque<(u64, Option<TransferId>)>,
}

impl Initiator {
    pub(super) fn new(peer: PeerId, window: u64) -> Self {
        Self {
            peer,
            window,
            flying: 0,
            next_id: 1,
            reads: VecDeque::new(),
            writes: VecDeque::new(),
            mails: VecDeque::new(),
        }
    }

    pub(super) fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether an answer is due.
    pub(super) fn due(&self) -> bool {
        !(self.reads.is_empty() && self.writes.is_empty() && self.mails.is_empty())
    }

    /// Bytes of the data that is due next, if they are few.
    pub(super) fn short_answer(&self) -> Option<usize> {
        let bytes = usize::try_from(self.reads.front()?.bytes).ok()?;
        (bytes <= SHORT_ANSWER).then_some(bytes)
    }

    fn has_room(&self, outbox: &Outbox) -> bool {
        let flights = self.reads.len() + self.writes.len() + self.mails.len();
        self.flying < self.window && flights < WINDOW_CHUNKS && outbox.left() < UNSENT_LOW
    }

    /// Begins what there is room for.
    pub(super) fn feed(
        &mut self,
        key: Key,
        outbox: &mut Outbox,
        cx: &mut Context<'_>,
    ) -> Result<(), Violation> {
        while self.has_room(outbox) {
            let Some(work) = cx.shared.with(|state| state.next(self.peer, key)) else { return Ok(()) };
            let id = self.next_id;
            self.next_id += 1;
            match work {
                Work::Mail(message, transfer) => {
                    self.mails.push_back((id, transfer));
                    outbox.push(wire::mail(id, &message))?;
                }
                Work::Chunk(chunk) => self.begin(id, chunk, outbox, cx)?,
            }
        }
        Ok(())
    }

    fn begin(
        &mut self,
        id: u64,
        chunk: Chunk,
        outbox: &mut Outbox,
        cx: &mut Context<'_>,
    ) -> Result<(), Violation> {
        let Chunk { transfer, direction, token, checked, piece, message } = chunk;
        let ranges = joined(piece.segments.iter().map(Segment::there));
        let kind = if direction == Direction::Read { Kind::Read } else { Kind::Write };
        let bytes = u32::try_from(piece.bytes).expect("a chunk is small");
        let mut head = Head { checked, bytes, ..Head::new(kind, id) };
        let mut data = None;
        if direction == Direction::Write {
            let here = piece.segments.iter().map(Segment::here);
            let places = match Ranges::new(&cx.shared.registry(), here) {
                Ok(places) => places,
                Err(error) => {
                    // A transfer keeps its regions registered; if that ever fails, it fails, not the stream.
                    cx.shared.with(|state| state.chunk_ended(transfer, Err(error)));
                    return Ok(());
                }
            };
            if checked {
                head.digest = places.digest_all().value();
            }
            data = Some(places);
        }
        self.flying += piece.bytes;
        let flight = Flight {
            id,
            transfer,
            segments: piece.segments,
            bytes: piece.bytes,
            checked,
            message: message.as_ref().map(bytes::Bytes::len),
        };
        let frame = ask(head, token, &ranges, message.as_deref().unwrap_or_default());
        match direction {
            Direction::Read => self.reads.push_back(flight),
            Direction::Write => self.writes.push_back(flight),
        }
        outbox.push_data(frame, data, None)
    }

    /// An answer has come; the data that follows it, if any.
    pub(super) fn answered(
        &mut self,
        head: &Head,
        cx: &mut Context<'_>,
    ) -> Result<Option<Arriving>, Violation> {
        match head.kind {
            Kind::Data => return self.data(head, cx),
            Kind::Written => self.written(head, cx)?,
            Kind::Taken => {
                let expected = self.mails.pop_front().filter(|(id, _)| *id == head.id);
                let (_, transfer) = expected.ok_or(Violation("it took a message that was not sent"))?;
                if let Some(transfer) = transfer {
                    cx.shared.with(|state| state.mail_taken(transfer));
                }
            }
            Kind::Credit => {
                let (messages, bytes) = (head.ranges as usize, head.bytes as usize);
                cx.shared.with(|state| state.mail_room(self.peer, messages, bytes));
            }
            Kind::Read | Kind::Write | Kind::Mail | Kind::Ping | Kind::Pong => {}
        }
        Ok(None)
    }

    fn data(&mut self, head: &Head, cx: &mut Context<'_>) -> Result<Option<Arriving>, Violation> {
        let flight = self.reads.pop_front().filter(|flight| flight.id == head.id);
        let flight = flight.ok_or(Violation("data that was not asked for"))?;
        self.flying -= flight.bytes;
        let transfer = flight.transfer;
        let begin = flight.begin();
        if head.answer != Answer::Good {
            let error = error(head.answer, begin);
            cx.shared.with(|state| state.chunk_refused(transfer, error));
            return Ok(None);
        }
        if u64::from(head.bytes) != flight.bytes || head.checked != flight.checked {
            return Err(Violation("other data than was asked for"));
        }
        let mut sink = Sink::Nowhere(flight.bytes);
        if cx.shared.with(|state| state.chunk_lands(transfer)) {
            // A transfer keeps its regions registered; if that ever fails, it fails, and its bytes go nowhere.
            match Ranges::new(&cx.shared.registry(), flight.segments.iter().map(Segment::here)) {
                Ok(places) => sink = Sink::Places(places),
                Err(error) => cx.shared.with(|state| state.chunk_ended(transfer, Err(error))),
            }
        }
        let digest = head.checked.then(|| (Digest::default(), head.digest));
        Ok(Some(Arriving { sink, digest, purpose: Purpose::Read { transfer, begin } }))
    }

    fn written(&mut self, head: &Head, cx: &mut Context<'_>) -> Result<(), Violation> {
        let flight = self.writes.pop_front().filter(|flight| flight.id == head.id);
        let flight = flight.ok_or(Violation("it wrote what was not sent"))?;
        self.flying -= flight.bytes;
        let how = match head.answer {
            Answer::Good => Ok(()),
            answer => Err(error(answer, flight.begin())),
        };
        cx.shared.with(|state| {
            if let (Err(_), Some(len)) = (&how, flight.message) {
                state.mail_room(self.peer, 1, len);
            }
            state.chunk_ended(flight.transfer, how);
        });
        Ok(())
    }
}

impl Flight {
    /// The first place of this side that it is about.
    fn begin(&self) -> Place {
        let first = self.segments.first().map(|segment| segment.local);
        first.unwrap_or(Place { region: RegionId(0), offset: 0 })
    }
}

fn error(answer: Answer, begin: Place) -> Error {
    match answer {
        Answer::Refused(refused) => Error::Refused(refused),
        Answer::Good | Answer::Corrupt => Error::Corrupt(begin.region, begin.offset),
    }
}
