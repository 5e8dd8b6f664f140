//! Transfers of this side: asked for, carried out, ended once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::link::Withdrawn;
use super::loans::Loans;
use super::timers::{Due, Key};
use super::{Core, MAX_UNSENT, Peer, State};
use crate::fabric::shm::frame::{Put, Reason, Violation};
use crate::fabric::shm::job::{Job, Keep, Piece, Purpose};
use crate::fabric::shm::source::{Share, Source};
use crate::fabric::{Direction, Event, Limits, Request};
use crate::memory::{Kind, Registry};
use crate::{Error, PeerId, RegionId, Segment, TransferId};

#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) request: Arc<Request>,
    /// The regions here that it names.
    regions: Vec<RegionId>,
    deadline: Option<Key>,
    /// The copying, once the peer has said to go ahead with a read.
    job: Option<Arc<Job>>,
    /// Why it is given up, while something still has to stop.
    ending: Option<Error>,
}

impl Core {
    pub(in super::super) fn submit(&mut self, request: Request) -> Result<TransferId, Error> {
        self.open()?;
        let unknown = Error::UnknownPeer(request.peer);
        let peer = self
            .peers
            .get_mut(&request.peer)
            .filter(|peer| matches!(peer.state, State::Up))
            .ok_or(unknown)?;
        request.check(&self.registry)?;
        if self.transfers.len() + self.events.ends() >= Limits::MAX_TRANSFERS {
            return Err(Error::Full("transfers under way, or ended and not polled (16 Ki)"));
        }
        let id = TransferId(self.next_transfer);
        self.next_transfer += 1;
        if request.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.events.push(Event::Failed(id, Error::Deadline));
            return Ok(id);
        }
        let regions = regions(&request.segments);
        for region in &regions {
            *self.uses.entry(*region).or_default() += 1;
        }
        if request.direction == Direction::Write {
            for region in &regions {
                peer.tell(*region, &self.shares, &mut self.loans);
            }
        }
        let deadline = request.deadline.map(|deadline| self.timers.add(deadline, Due::Transfer(id)));
        let request = Arc::new(request);
        let link = peer.link.as_mut().expect("a peer that is up has a connection");
        link.ask(id.0, Arc::clone(&request));
        link.flush(&self.epoll);
        self.transfers.insert(id, Transfer { request, regions, deadline, job: None, ending: None });
        Ok(id)
    }

    pub(in super::super) fn notify(&mut self, peer: PeerId, message: &Bytes) -> Result<(), Error> {
        self.open()?;
        if message.len() > Limits::MAX_MESSAGE {
            return Err(Error::Full("bytes of a message (64 KiB)"));
        }
        let known = self.peers.get_mut(&peer).filter(|peer| matches!(peer.state, State::Up));
        let link = known.and_then(|peer| peer.link.as_mut()).ok_or(Error::UnknownPeer(peer))?;
        if link.waiting() >= MAX_UNSENT {
            return Err(Error::Full("bytes that wait for a peer to read (16 MiB)"));
        }
        link.say(|out| out.notify(message));
        link.flush(&self.epoll);
        Ok(())
    }

    /// Ends a transfer early, for that reason.
    pub(in super::super) fn give_up(&mut self, id: TransferId, why: Error) {
        let Some(transfer) = self.transfers.get_mut(&id).filter(|transfer| transfer.ending.is_none()) else {
            return;
        };
        let peer = self.peers.get_mut(&transfer.request.peer).expect("a transfer's peer outlives it");
        if let Some(job) = &transfer.job {
            transfer.ending = Some(why);
            return self.pool.stop(job);
        }
        let Some(link) = &mut peer.link else { return };
        match (link.withdraw(id.0), transfer.request.direction) {
            // Nothing is written here before the peer says to go ahead, and that is answered when it comes.
            (Withdrawn::Unsaid, _) | (Withdrawn::Said, Direction::Read) => self.end(id, Err(why)),
            (Withdrawn::HalfSaid, _) => {
                link.say(|out| out.cancel(id.0));
                link.flush(&self.epoll);
                self.end(id, Err(why));
            }
            (Withdrawn::Said, Direction::Write) => {
                link.say(|out| out.cancel(id.0));
                link.flush(&self.epoll);
                transfer.ending = Some(why);
                let due = Due::Unwritten(transfer.request.peer, id);
                self.timers.add(Instant::now() + self.options.stop_within, due);
            }
        }
    }

    /// The peer says to go ahead with a read.
    pub(super) fn go(&mut self, peer: PeerId, number: u64) -> Result<(), Violation> {
        let id = TransferId(number);
        let peer = self.peers.get_mut(&peer).expect("the caller has found it");
        let link = peer.link.as_mut().expect("it has just said something");
        let Some(transfer) = self.transfers.get_mut(&id) else {
            // It was given up meanwhile.
            link.say(|out| out.over(number));
            link.flush(&self.epoll);
            return Ok(());
        };
        let request = &transfer.request;
        if request.direction != Direction::Read || transfer.job.is_some() {
            return Err(Violation("an answer to what was not asked"));
        }
        let moves = request.segments.iter().map(|segment| Segment {
            local: segment.remote,
            remote: segment.local,
            ..*segment
        });
        let purpose = Purpose::Read(id);
        let job = copying(purpose, moves, request.checksum, peer, &self.registry)?;
        peer.jobs += 1;
        let job = Arc::new(job);
        transfer.job = Some(Arc::clone(&job));
        self.start(job);
        Ok(())
    }

    /// The peer wants its bytes back: a lease has ended.
    pub(super) fn stop_reading(&mut self, number: u64, reason: Reason) {
        if let Some(transfer) = self.transfers.get_mut(&TransferId(number))
            && let Some(job) = &transfer.job
        {
            transfer.ending.get_or_insert(reason.error());
            self.pool.stop(job);
        }
    }

    /// The copying of a read has ended.
    pub(super) fn read_ended(&mut self, id: TransferId, result: Result<(), Error>) {
        let Some(transfer) = self.transfers.get(&id) else { return };
        let request = Arc::clone(&transfer.request);
        if let Some(link) = self.peers.get_mut(&request.peer).and_then(|peer| peer.link.as_mut()) {
            link.say(|out| out.over(id.0));
            if let (Ok(()), Some(message)) = (&result, &request.notify) {
                link.say(|out| out.notify(message));
            }
            link.flush(&self.epoll);
        }
        self.end(id, result);
    }

    /// The peer says how a transfer ended.
    pub(super) fn answered(
        &mut self,
        id: TransferId,
        peer: PeerId,
        result: Result<(), Error>,
    ) -> Result<(), Violation> {
        match self.transfers.get(&id) {
            // It was given up before the peer had heard all of it.
            None => Ok(()),
            Some(transfer) if transfer.request.peer != peer || transfer.job.is_some() => {
                Err(Violation("an answer to what was not asked"))
            }
            Some(transfer) if transfer.request.direction == Direction::Read && result.is_ok() => {
                Err(Violation("an answer to what was not asked"))
            }
            Some(_) => {
                self.end(id, result);
                Ok(())
            }
        }
    }

    fn end(&mut self, id: TransferId, result: Result<(), Error>) {
        let Some(transfer) = self.transfers.remove(&id) else { return };
        self.timers.remove(transfer.deadline);
        for region in &transfer.regions {
            let left = self.uses.get_mut(region).expect("it was counted when submitted");
            *left -= 1;
            if *left == 0 {
                self.uses.remove(region);
            }
        }
        self.events.push(match result {
            Ok(()) => Event::Done(id),
            Err(error) => Event::Failed(id, transfer.ending.unwrap_or(error)),
        });
    }

    /// Everything with a peer fails; what is being copied, when it has stopped.
    pub(super) fn fail_all_with(&mut self, peer: PeerId, why: &Error) {
        let mut at_once = Vec::new();
        for (id, transfer) in &mut self.transfers {
            if transfer.request.peer == peer {
                if let Some(job) = &transfer.job {
                    transfer.ending.get_or_insert_with(|| why.clone());
                    self.pool.stop(job);
                } else {
                    at_once.push(*id);
                }
            }
        }
        at_once.sort_unstable();
        for id in at_once {
            self.end(id, Err(why.clone()));
        }
    }
}

impl Peer {
    /// Tells it about a region, before the first request or answer that needs it.
    pub(super) fn tell(&mut self, region: RegionId, shares: &HashMap<RegionId, Share>, loans: &mut Loans) {
        let (Some(link), Some(share)) = (&mut self.link, shares.get(&region)) else { return };
        if self.told.insert(region) {
            match share {
                Share::File(file) => link.say_with(Arc::clone(file), |out| out.file(region)),
                Share::Memory { base, len } => link.say(|out| out.memory(region, *base, *len)),
                Share::Device { export, region: memory } => {
                    // Without descriptors to give, the peer does not hear of it, and parts when it should copy from it.
                    if let Ok(file) = loans.lend(memory) {
                        link.say_with(Arc::new(file), |out| out.device(region, export));
                    }
                }
            }
        }
    }
}

/// The regions here that segments name, each once.
fn regions(segments: &[Segment]) -> Vec<RegionId> {
    let mut seen = HashSet::new();
    let mut last = None;
    let new = |region: &RegionId| last.replace(*region) != Some(*region) && seen.insert(*region);
    segments.iter().map(|segment| segment.local.region).filter(new).collect()
}

/// The job of copying `moves`, each from a region of the peer (`local`) to one of this side (`remote`).
///
/// # Errors
/// If the peer's regions have no such bytes: it has told about too few, or lies.
pub(super) fn copying(
    purpose: Purpose,
    moves: impl Iterator<Item = Segment>,
    compare: bool,
    peer: &Peer,
    registry: &Registry,
) -> Result<Job, Violation> {
    let mut keep = Keep::default();
    let mut pieces = Vec::with_capacity(moves.size_hint().0);
    // Most transfers are between two regions: the last two are remembered, and found without looking.
    let mut from: Option<(RegionId, Arc<Source>)> = None;
    let mut to: Option<RegionId> = None;
    for segment in moves.filter(|segment| segment.len > 0) {
        let source = match &from {
            Some((region, source)) if *region == segment.local.region => source,
            _ => {
                let region = segment.local.region;
                let source =
                    peer.sources.get(&region).ok_or(Violation("bytes of a region it has not told about"))?;
                keep.sources.push(Arc::clone(source));
                &from.insert((region, Arc::clone(source))).1
            }
        };
        let number = keep.sources.len() - 1;
        let source = source
            .at(number, segment.local.offset, segment.len)
            .ok_or(Violation("bytes that its region has not"))?;
        if to != Some(segment.remote.region) {
            let region =
                registry.get(segment.remote.region).map_err(|_| Violation("bytes for an unknown region"))?;
            keep.regions.push(region.clone());
            if region.kind() != Kind::Host {
                keep.devices.insert(segment.remote.region, region.clone());
            }
            to = Some(segment.remote.region);
        }
        let address =
            registry.address(segment.there()).map_err(|_| Violation("bytes for beyond a region"))?;
        pieces.push(Piece { from: source, to: address, name: segment.remote, len: segment.len });
    }
    let pid = peer.link.as_ref().map_or(0, |link| link.pid);
    #[expect(unsafe_code, reason = "the addresses are vouched for here")]
    // SAFETY: each piece lies within a source and a region that `keep` keeps, as these have said just now. Destinations do
    // not overlap: for a read, `Request::check` has seen to it; for a write, the caller has.
    let job = unsafe { Job::new(purpose, pieces, compare, pid, keep) };
    Ok(job)
}
