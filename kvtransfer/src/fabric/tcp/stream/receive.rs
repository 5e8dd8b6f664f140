//! Receiving: frames by way of a small buffer, data straight into its places.

use std::io;

use bytes::Bytes;

use super::super::book::InUse;
use super::super::digest::Digest;
use super::super::limits::{FRAME_READ, TURN_BYTES};
use super::super::memory::Ranges;
use super::super::places::Scatter;
use super::super::tls::TlsProblem;
use super::super::wire::{Answer, Asked, HEAD, Head, Kind, check};
use super::greet::Greeting;
use super::{Context, Role, Stream, broken};
use crate::{Error, TransferId};

/// What the next bytes are.
#[derive(Debug)]
pub(super) enum Receiving {
    Frame,
    Data(Arriving),
}

/// Data on its way in.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) sink: Sink,
    /// Of what has arrived, if it is to be checked, and what it is to be.
    pub(super) digest: Option<(Digest, u32)>,
    pub(super) purpose: Purpose,
}

/// Where bytes go.
#[derive(Debug)]
pub(super) enum Sink {
    Places(Ranges),
    /// Nowhere; so many are to come.
    Nowhere(u64),
}

/// What data is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// A chunk of a read of ours.
    Read { transfer: TransferId, begin: crate::Place },
    /// A chunk that a guest writes, its answer if that is known already, and the message with it.
    Write { id: u64, used: Option<InUse>, answer: Answer, message: Option<Bytes> },
}

impl Sink {
    fn left(&self) -> u64 {
        match self {
            Self::Places(ranges) => ranges.left(),
            Self::Nowhere(left) => *left,
        }
    }
}

impl Receiving {
    /// If bytes of `transfer` are arriving, they go nowhere from here on. Whether that is so.
    pub(super) fn discard(&mut self, transfer: TransferId) -> bool {
        let Self::Data(arriving) = self else { return false };
        let is_it = matches!(&arriving.purpose, Purpose::Read { transfer: own, .. } if *own == transfer);
        let Sink::Places(ranges) = &arriving.sink else { return false };
        if is_it {
            arriving.sink = Sink::Nowhere(ranges.left());
        }
        is_it
    }

    /// The use under which a guest's bytes arrive.
    pub(super) fn used(&self) -> Option<&InUse> {
        match self {
            Self::Data(Arriving { purpose: Purpose::Write { used, .. }, .. }) => used.as_ref(),
            _ => None,
        }
    }

    /// Nothing arrives any more; the use that ends by it.
    pub(super) fn abandon(&mut self) -> Vec<InUse> {
        match std::mem::replace(self, Self::Frame) {
            Self::Data(Arriving { purpose: Purpose::Write { used, .. }, .. }) => used.into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

impl Stream {
    /// Receives and understands what there is, within its turn.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let mut room = TURN_BYTES;
        loop {
            let need = self.understand(cx)?;
            if !self.readable || room == 0 || self.closing.is_some() {
                return Ok(());
            }
            let count = match need {
                Some(need) => match self.receive_frame(need) {
                    Err(Error::Tls(TlsProblem::PeerIsPlain)) if self.is_stranger() => {
                        self.inbuf = self.socket.speak_plainly();
                        0
                    }
                    count => count?,
                },
                None => self.receive_data(cx)?,
            };
            if count > 0 {
                self.heard = cx.now;
            }
            room = room.saturating_sub(count.max(1));
        }
    }

    /// Acts upon all that is buffered. How many more bytes a frame needs; `None` if data is due.
    fn understand(&mut self, cx: &mut Context<'_>) -> Result<Option<usize>, Error> {
        loop {
            if self.closing.is_some() {
                return Ok(Some(0));
            }
            if let Receiving::Data(arriving) = &mut self.receiving {
                let buffered = self.inbuf.have();
                let taken = arriving.take_buffered(buffered);
                self.inbuf.consume(taken);
                if arriving.sink.left() > 0 {
                    return Ok(None);
                }
                self.arrived(cx)?;
                continue;
            }
            let step =
                if matches!(self.greeting, Greeting::Over) { self.frame(cx)? } else { self.greet(cx)? };
            if let Err(need) = step {
                return Ok(Some(need - self.inbuf.have().len()));
            }
        }
    }

    /// Understands the next frame, if all of it is there. How many bytes are needed, if not.
    fn frame(&mut self, cx: &mut Context<'_>) -> Result<Result<(), usize>, Error> {
        let have = self.inbuf.have();
        let Some(head) = have.first_chunk::<HEAD>() else { return Ok(Err(HEAD)) };
        let head = Head::parse(*head)?;
        let need = HEAD + head.body();
        if have.len() < need {
            return Ok(Err(need));
        }
        check(&have[..need])?;
        let body = &have[HEAD..need];
        match head.kind {
            Kind::Read | Kind::Write => {
                let asked = Asked::parse(&head, body)?;
                self.inbuf.consume(need);
                let arriving = self.owner()?.asked(&head, asked, cx)?;
                self.begin(arriving);
            }
            Kind::Mail => {
                let message = Bytes::copy_from_slice(body);
                self.inbuf.consume(need);
                self.mail(head.id, message, cx)?;
            }
            Kind::Ping => {
                self.inbuf.consume(need);
                self.owner()?;
                self.outbox.push(Head::new(Kind::Pong, head.id).frame())?;
            }
            Kind::Data | Kind::Written | Kind::Taken | Kind::Pong | Kind::Credit => {
                self.inbuf.consume(need);
                let arriving = self.initiator()?.answered(&head, cx)?;
                self.begin(arriving);
            }
        }
        Ok(Ok(()))
    }

    fn begin(&mut self, arriving: Option<Arriving>) {
        if let Some(arriving) = arriving {
            self.receiving = Receiving::Data(arriving);
        }
    }

    fn mail(&mut self, id: u64, message: Bytes, cx: &Context<'_>) -> Result<(), Error> {
        self.owner()?;
        if let Some(life) = self.life() {
            cx.shared.with(|state| state.notified(life, message))?;
        }
        Ok(self.outbox.push(Head::new(Kind::Taken, id).frame())?)
    }

    fn receive_frame(&mut self, need: usize) -> Result<u64, Error> {
        // A short answer comes along whole: to copy it once is cheaper than a second call.
        let along = match &self.role {
            Role::Initiator(initiator) => initiator.short_answer().map_or(0, |bytes| HEAD + bytes),
            Role::Owner(_) => 0,
        };
        let room = self.inbuf.room(need.max(FRAME_READ).max(along));
        let asked = room.len();
        let mut places = Scatter::new();
        places.push(room);
        let count = received(self.socket.receive(&mut places))?;
        self.inbuf.came(count.unwrap_or(0));
        self.drained(count, asked as u64);
        Ok(count.unwrap_or(0) as u64)
    }

    fn receive_data(&mut self, cx: &mut Context<'_>) -> Result<u64, Error> {
        let Receiving::Data(arriving) = &mut self.receiving else { return Ok(0) };
        let mut places = Scatter::new();
        match &mut arriving.sink {
            Sink::Places(ranges) => {
                let whole = places.push_ranges(ranges);
                // The next frame's head may come along, and no more: what follows it may be data.
                if whole {
                    places.push(self.inbuf.room(HEAD));
                }
            }
            Sink::Nowhere(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(cx.scratch.len());
                places.push(&mut cx.scratch[..count]);
            }
        }
        let asked = places.bytes();
        let count = received(self.socket.receive(&mut places))?;
        let came = count.unwrap_or(0) as u64;
        let data = came.min(arriving.sink.left());
        arriving.advance(data);
        self.inbuf.came(usize::try_from(came - data).unwrap_or(0));
        self.drained(count, asked);
        Ok(came)
    }

    /// Less came than there was room for: there is no more for now. Not so if the peer has hung up: its last word, that
    /// it has, is still to be read.
    fn drained(&mut self, count: Option<usize>, asked: u64) {
        self.readable = match count {
            None => false,
            Some(count) => self.hung_up || count as u64 == asked,
        };
    }

    /// All of the data is there.
    fn arrived(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let Receiving::Data(arriving) = std::mem::replace(&mut self.receiving, Receiving::Frame) else {
            return Ok(());
        };
        let placed = matches!(arriving.sink, Sink::Places(_));
        let intact = arriving.digest.is_none_or(|(digest, expected)| digest.value() == expected);
        match arriving.purpose {
            Purpose::Read { transfer, begin } => {
                if placed {
                    let how = if intact { Ok(()) } else { Err(Error::Corrupt(begin.region, begin.offset)) };
                    cx.shared.with(|state| state.chunk_ended(transfer, how));
                }
            }
            Purpose::Write { id, used, mut answer, message } => {
                if placed && !intact {
                    answer = Answer::Corrupt;
                }
                let life = self.life();
                cx.shared.with(|state| {
                    if let Some(used) = used {
                        state.end_use(used);
                    }
                    match (answer, life, message) {
                        (Answer::Good, Some(life), Some(message)) => state.notified(life, message),
                        _ => Ok(()),
                    }
                })?;
                let head = Head { answer, ..Head::new(Kind::Written, id) };
                self.outbox.push(head.frame())?;
            }
        }
        Ok(())
    }
}

impl Arriving {
    /// Takes what was buffered with the frame before.
    fn take_buffered(&mut self, buffered: &[u8]) -> usize {
        match &mut self.sink {
            Sink::Places(ranges) => {
                let count = ranges.fill(buffered);
                if let Some((digest, _)) = &mut self.digest {
                    digest.add(&buffered[..count]);
                }
                count
            }
            Sink::Nowhere(left) => {
                let count = (*left).min(buffered.len() as u64);
                *left -= count;
                usize::try_from(count).unwrap_or(0)
            }
        }
    }

    fn advance(&mut self, count: u64) {
        match (&mut self.sink, &mut self.digest) {
            (Sink::Places(ranges), Some((digest, _))) => ranges.digest(count, digest),
            (Sink::Places(ranges), None) => ranges.advance(count),
            (Sink::Nowhere(left), _) => *left -= count,
        }
    }
}

/// `None` if there is nothing for now.
fn received(result: io::Result<usize>) -> Result<Option<usize>, Error> {
    match result {
        Ok(0) => Err(Error::Lost("the peer closed the connection".into())),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
        Err(error) => Err(broken(&error)),
    }
}
