//! Leases, and what peers do under them. A lease's bytes are free when it has ended and nobody touches them: neither a
//! job here, nor a peer that reads.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Core;
use super::ask::copying;
use super::timers::{Due, Key};
use crate::fabric::shm::frame::{MAX_PART, Part, Put, Range, Reason, Violation};
use crate::fabric::shm::job::{Job, Purpose};
use crate::fabric::{Event, Limits, destinations_overlap};
use crate::lease::{Access, Lease, Refused, Use};
use crate::{Error, PeerId, Segment, Token};

/// Requests of one peer at a time: what an honest one can have under way with all of its peers.
const MAX_SERVED: usize = Limits::MAX_TRANSFERS;

/// Ranges of one peer's writes at a time. Beyond, nothing is taken from it until some are done: the jobs for as many take
/// some 200 MiB.
const MAX_PIECES: usize = 2 * Limits::MAX_SEGMENTS;

/// A lease that has not ended.
#[derive(Debug)]
pub(super) struct Granted {
    deadline: Key,
    revoked: bool,
}

/// A peer's request that has not come wholly.
#[derive(Debug)]
pub(super) struct Collecting {
    id: u64,
    token: Token,
    count: usize,
    what: What,
}

#[derive(Debug)]
enum What {
    Read(Vec<Range>),
    Write { pairs: Vec<Segment>, compare: bool, message: Option<Bytes> },
}

/// What a peer reads.
#[derive(Debug)]
pub(super) struct Reading {
    token: Token,
    using: Use,
    told_to_stop: bool,
}

/// What is copied here for a peer.
#[derive(Debug)]
pub(super) struct Writing {
    token: Token,
    using: Use,
    job: Arc<Job>,
    message: Option<Bytes>,
    ending: Option<Reason>,
}

impl Core {
    pub(in super::super) fn grant(&mut self, lease: Lease) -> Result<(), Error> {
        self.open()?;
        for span in &lease.spans {
            self.registry.address(*span)?;
        }
        if self.granted.len() >= Limits::MAX_LEASES {
            return Err(Error::Full("leases at a time (64 Ki)"));
        }
        let (token, at) = (lease.token, lease.deadline);
        if !self.leases.grant(lease) {
            return Err(Error::TokenInUse);
        }
        let deadline = self.timers.add(at, Due::Lease(token));
        self.granted.insert(token, Granted { deadline, revoked: false });
        Ok(())
    }

    /// Ends a lease, for that reason.
    pub(in super::super) fn end_lease(&mut self, token: Token, why: Refused) {
        let Some(granted) = self.granted.get_mut(&token).filter(|granted| !granted.revoked) else { return };
        granted.revoked = true;
        self.timers.remove(Some(granted.deadline));
        if self.leases.revoke(token) {
            return self.freed(token);
        }
        let now = Instant::now();
        for (id, peer) in &mut self.peers {
            for writing in peer.writing.values_mut().filter(|writing| writing.token == token) {
                writing.ending.get_or_insert(Reason::Refused(why));
                self.pool.stop(&writing.job);
            }
            let Some(link) = &mut peer.link else { continue };
            let readings = peer.reading.iter_mut();
            for (number, reading) in
                readings.filter(|(_, reading)| reading.token == token && !reading.told_to_stop)
            {
                reading.told_to_stop = true;
                link.say(|out| out.stop(*number, &Reason::Refused(why)));
                self.timers.add(now + self.options.stop_within, Due::Unread(*id, *number));
            }
            link.flush(&self.epoll);
        }
    }

    fn freed(&mut self, token: Token) {
        self.granted.remove(&token);
        self.events.push(Event::Freed(token));
    }

    fn done_with(&mut self, using: Use) {
        if let Some(token) = self.leases.done(using) {
            self.freed(token);
        }
    }

    /// A peer asks to read. The first part of `count` ranges has come.
    pub(super) fn asks_to_read(
        &mut self,
        id: PeerId,
        number: u64,
        token: Token,
        count: usize,
        part: Part<'_, Range>,
    ) -> Result<(), Violation> {
        let ranges = part.items().collect();
        self.collect(id, Collecting { id: number, token, count, what: What::Read(ranges) })
    }

    /// A peer asks for a write. The first part of `count` pairs has come.
    #[expect(clippy::too_many_arguments, reason = "they are a frame's fields")]
    pub(super) fn asks_to_write(
        &mut self,
        id: PeerId,
        number: u64,
        token: Token,
        count: usize,
        compare: bool,
        message: Option<Bytes>,
        part: Part<'_, Segment>,
    ) -> Result<(), Violation> {
        let pairs = part.items().collect();
        self.collect(
            id,
            Collecting { id: number, token, count, what: What::Write { pairs, compare, message } },
        )
    }

    /// More of what a peer asks.
    pub(super) fn more_ranges(
        &mut self,
        id: PeerId,
        number: u64,
        part: Part<'_, Range>,
    ) -> Result<(), Violation> {
        let mut collecting = self.collecting(id, number)?;
        let What::Read(ranges) = &mut collecting.what else { return Err(OUT_OF_TURN) };
        ranges.extend(part.items());
        self.collect(id, collecting)
    }

    /// As above.
    pub(super) fn more_pairs(
        &mut self,
        id: PeerId,
        number: u64,
        part: Part<'_, Segment>,
    ) -> Result<(), Violation> {
        let mut collecting = self.collecting(id, number)?;
        let What::Write { pairs, .. } = &mut collecting.what else { return Err(OUT_OF_TURN) };
        pairs.extend(part.items());
        self.collect(id, collecting)
    }

    fn collecting(&mut self, id: PeerId, number: u64) -> Result<Collecting, Violation> {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        peer.collecting.take_if(|collecting| collecting.id == number).ok_or(OUT_OF_TURN)
    }

    /// Serves a request that has come wholly, and keeps one that has not.
    fn collect(&mut self, id: PeerId, collecting: Collecting) -> Result<(), Violation> {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        let have = match &collecting.what {
            What::Read(ranges) => ranges.len(),
            What::Write { pairs, .. } => pairs.len(),
        };
        if have < collecting.count {
            if peer.collecting.is_some() || !have.is_multiple_of(MAX_PART) || have == 0 {
                return Err(OUT_OF_TURN);
            }
            peer.collecting = Some(collecting);
            return Ok(());
        }
        let number = collecting.id;
        let known = peer.reading.contains_key(&number) || peer.writing.contains_key(&number);
        if have > collecting.count || known {
            return Err(OUT_OF_TURN);
        }
        if peer.reading.len() + peer.writing.len() >= MAX_SERVED {
            return Err(Violation("more requests at a time than there may be"));
        }
        match collecting.what {
            What::Read(ranges) => {
                self.serve_read(id, number, collecting.token, &ranges);
                Ok(())
            }
            What::Write { pairs, compare, message } => {
                self.serve_write(id, number, collecting.token, &pairs, compare, message)
            }
        }
    }

    fn serve_read(&mut self, id: PeerId, number: u64, token: Token, ranges: &[Range]) {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        match self.leases.begin(token, Access::Read, ranges.iter().copied(), Instant::now()) {
            Ok(using) => {
                let mut last = None;
                for region in ranges.iter().filter(|range| range.len > 0).map(|range| range.at.region) {
                    if last.replace(region) != Some(region) {
                        peer.tell(region, &self.shares, &mut self.loans);
                    }
                }
                peer.reading.insert(number, Reading { token, using, told_to_stop: false });
                peer.say(|out| out.go(number));
            }
            Err(refused) => peer.say(|out| out.no(number, &Reason::Refused(refused))),
        }
    }

    fn serve_write(
        &mut self,
        id: PeerId,
        number: u64,
        token: Token,
        pairs: &[Segment],
        compare: bool,
        message: Option<Bytes>,
    ) -> Result<(), Violation> {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        if destinations_overlap(pairs.iter().map(Segment::there)) {
            return Err(Violation("a write that writes bytes twice"));
        }
        let using =
            match self.leases.begin(token, Access::Write, pairs.iter().map(Segment::there), Instant::now()) {
                Ok(using) => using,
                Err(refused) => {
                    peer.say(|out| out.no(number, &Reason::Refused(refused)));
                    return Ok(());
                }
            };
        let purpose = Purpose::Write(id, number);
        let job = match copying(purpose, pairs.iter().copied(), compare, peer, &self.registry) {
            Ok(job) => Arc::new(job),
            Err(violation) => {
                self.done_with(using);
                return Err(violation);
            }
        };
        peer.jobs += 1;
        peer.pieces += job.pieces();
        let writing = Writing { token, using, job: Arc::clone(&job), message, ending: None };
        peer.writing.insert(number, writing);
        self.start(job);
        Ok(())
    }

    /// The copying of a peer's write has ended.
    pub(super) fn write_ended(&mut self, id: PeerId, number: u64, pieces: usize, result: Result<(), Error>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.pieces -= pieces;
        let Some(writing) = peer.writing.remove(&number) else { return };
        match result {
            Ok(()) => {
                if let Some(message) = writing.message {
                    self.events.push(Event::Notified(id, message));
                }
                peer.say(|out| out.wrote(number));
            }
            Err(error) => {
                let reason = writing.ending.unwrap_or_else(|| Reason::of(&error));
                peer.say(|out| out.no(number, &reason));
            }
        }
        if let Some(link) = &mut peer.link {
            link.flush(&self.epoll);
        }
        self.done_with(writing.using);
        self.resume();
    }

    /// A peer touches bytes of this side no more.
    pub(super) fn over(&mut self, id: PeerId, number: u64) {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        if let Some(reading) = peer.reading.remove(&number) {
            self.done_with(reading.using);
        }
    }

    /// A peer takes a request back. What is being copied for it is answered once it has stopped.
    pub(super) fn cancelled(&mut self, id: PeerId, number: u64) {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        if peer.collecting.take_if(|collecting| collecting.id == number).is_some() {
            return;
        }
        if let Some(writing) = peer.writing.get_mut(&number) {
            writing.ending.get_or_insert(Reason::Cancelled);
            self.pool.stop(&writing.job);
        }
    }

    /// A peer is gone: what it reads does not count any more, and what is copied for it stops.
    pub(super) fn stop_serving(&mut self, id: PeerId) {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        peer.writing.values().for_each(|writing| self.pool.stop(&writing.job));
        let reading: Vec<Reading> = peer.reading.drain().map(|(_, reading)| reading).collect();
        for reading in reading {
            self.done_with(reading.using);
        }
    }

    /// Whether a peer has so much under way that nothing more should be taken from it.
    pub(super) fn is_busy(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.pieces > MAX_PIECES)
    }
}

const OUT_OF_TURN: Violation = Violation("a request, or a part of one, out of its turn");
