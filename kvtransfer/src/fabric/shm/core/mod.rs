//! What the fabric knows, and what it does about what happens: one state behind one lock. It never waits: sockets take and
//! give what they can at once, and copying is the pool's.
//!
//! - [`meet`]: peers come and go;
//! - [`hear`]: what they say, frame by frame;
//! - [`ask`]: transfers of this side;
//! - [`serve`]: leases, and what peers do under them;
//! - [`loans`]: what they have mapped of devices;
//! - [`timers`]: what is due when.

mod ask;
mod hear;
mod link;
mod loans;
mod meet;
mod serve;
mod timers;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use nix::sys::epoll::Epoll;

use self::ask::Transfer;
use self::link::Link;
use self::loans::Loans;
use self::serve::{Collecting, Granted, Reading, Writing};
use self::timers::Timers;
use super::job::{Job, Outcome, Purpose};
use super::metadata::Metadata;
use super::options::Options;
use super::pool::Pool;
use super::socket::{Address, Listener};
use super::source::{Share, Source};
use crate::fabric::common::{EventQueue, Identity};
use crate::fabric::{Event, Lane};
use crate::lease::Leases;
use crate::memory::{Region, Registry};
use crate::{Error, PeerId, RegionId, Token, TransferId};

/// Small jobs that the event loop does itself before it looks at its sockets again; others go to the pool.
const MAX_AT_ONCE: usize = 16;

/// Bytes of messages that may wait for one peer to read: it is far behind then, and the caller should know.
const MAX_UNSENT: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) me: Metadata,
    options: Options,
    pub(super) events: Arc<EventQueue>,
    pool: Arc<Pool>,
    epoll: Arc<Epoll>,
    /// `None` once closed.
    listener: Option<Listener>,
    registry: Registry,
    shares: HashMap<RegionId, Share>,
    /// How many transfers of this side name a region.
    uses: HashMap<RegionId, usize>,
    leases: Leases,
    granted: HashMap<Token, Granted>,
    loans: Loans,
    /// Connections that have not said who they are.
    guests: HashMap<u64, Link>,
    peers: HashMap<PeerId, Peer>,
    by_identity: HashMap<Identity, PeerId>,
    by_link: HashMap<u64, PeerId>,
    transfers: HashMap<TransferId, Transfer>,
    pub(super) timers: Timers,
    /// Connections from which nothing is taken for now.
    paused: HashSet<u64>,
    /// Where bytes are received before they are understood.
    scratch: Vec<u8>,
    /// Small jobs to be done once the lock is let go.
    at_once: Vec<Arc<Job>>,
    next_link: u64,
    next_peer: u32,
    next_transfer: u64,
    pub(super) closed: bool,
}

/// Where things stand with a peer.
#[derive(Debug)]
enum State {
    /// This side has knocked, or waits for a place to, or for the other to knock.
    Meeting { address: Address },
    /// It can be used.
    Up,
    /// It is gone, but jobs still touch bytes of it.
    Parting(Error),
}

#[derive(Debug)]
struct Peer {
    identity: Identity,
    state: State,
    link: Option<Link>,
    /// The connection's, for jobs that end after it has.
    socket: Option<Arc<OwnedFd>>,
    /// Its regions.
    sources: HashMap<RegionId, Arc<Source>>,
    /// This side's regions that it has been told about.
    told: HashSet<RegionId>,
    /// A request of it that has not come wholly.
    collecting: Option<Collecting>,
    reading: HashMap<u64, Reading>,
    writing: HashMap<u64, Writing>,
    /// Jobs that copy from it.
    jobs: usize,
    /// Ranges of the jobs that it waits for.
    pieces: usize,
}

impl Core {
    pub(super) fn new(
        me: Metadata,
        options: Options,
        events: Arc<EventQueue>,
        pool: Arc<Pool>,
        epoll: Arc<Epoll>,
        listener: Listener,
    ) -> Self {
        let loans = Loans::new(Arc::clone(&epoll));
        Self {
            me,
            options,
            events,
            pool,
            epoll,
            listener: Some(listener),
            registry: Registry::default(),
            shares: HashMap::new(),
            uses: HashMap::new(),
            leases: Leases::default(),
            granted: HashMap::new(),
            loans,
            guests: HashMap::new(),
            peers: HashMap::new(),
            by_identity: HashMap::new(),
            by_link: HashMap::new(),
            transfers: HashMap::new(),
            timers: Timers::default(),
            paused: HashSet::new(),
            scratch: vec![0; link::INBOX],
            at_once: Vec::new(),
            next_link: super::progress::FIRST_LINK,
            next_peer: 0,
            next_transfer: 0,
            closed: false,
        }
    }

    fn open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    pub(super) fn metadata(&self) -> Result<Bytes, Error> {
        self.open()?;
        Ok(self.me.encode().into())
    }

    pub(super) fn register(&mut self, region: Region) -> Result<RegionId, Error> {
        self.open()?;
        let share = Share::of(&region)?;
        let id = self.registry.add(region)?;
        self.shares.insert(id, share);
        Ok(id)
    }

    pub(super) fn deregister(&mut self, region: RegionId) -> Result<(), Error> {
        self.open()?;
        self.registry.get(region)?;
        if self.uses.contains_key(&region) || self.leases.touches(region) {
            return Err(Error::RegionBusy(region));
        }
        self.registry.remove(region)?;
        self.shares.remove(&region);
        for peer in self.peers.values_mut() {
            if let Some(link) = peer.link.as_mut().filter(|_| peer.told.remove(&region)) {
                link.say(|out| super::frame::Put::forget(out, region));
                link.flush(&self.epoll);
            }
        }
        Ok(())
    }

    pub(super) fn lane(&self, peer: PeerId) -> Option<Lane> {
        let peer = self.peers.get(&peer).filter(|peer| matches!(peer.state, State::Up))?;
        Some(peer.lane())
    }

    /// A peer has closed its mapping of a device's memory: this.
    pub(super) fn returned(&mut self, loan: u64) -> Option<Region> {
        self.loans.returned(loan)
    }

    /// Begins a job.
    fn start(&mut self, job: Arc<Job>) {
        if job.is_small() && self.at_once.len() < MAX_AT_ONCE {
            self.at_once.push(job);
        } else {
            self.pool.push(job);
        }
    }

    /// Small jobs, to be done by whoever calls, without the lock.
    pub(super) fn take_small_jobs(&mut self) -> Vec<Arc<Job>> {
        std::mem::take(&mut self.at_once)
    }

    /// A job has ended: its transfer has, too, if its bytes count.
    pub(super) fn ended(&mut self, job: &Job) {
        let id = match job.purpose {
            Purpose::Read(transfer) => self.transfers.get(&transfer).map(|transfer| transfer.request.peer),
            Purpose::Write(peer, _) => Some(peer),
        };
        let Some((id, peer)) = id.and_then(|id| Some((id, self.peers.get_mut(&id)?))) else { return };
        peer.jobs -= 1;
        let counts = matches!(peer.state, State::Up)
            && peer.socket.as_ref().is_some_and(|socket| super::socket::is_whole(socket));
        let result = match job.outcome() {
            Outcome::Copied if counts => Ok(()),
            Outcome::Copied => Err(Error::Lost("it parted before its bytes could be taken for good".into())),
            Outcome::Stopped => Err(Error::Cancelled),
            Outcome::Failed(error) => Err(error),
        };
        match job.purpose {
            Purpose::Read(transfer) => self.read_ended(transfer, result),
            Purpose::Write(_, number) => self.write_ended(id, number, job.pieces(), result),
        }
        self.finish_parting(id);
    }

    /// Ends everything. What copies still run end by [`ended`](Self::ended), once the pool has stopped them.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.listener = None;
        for (_, guest) in self.guests.drain() {
            guest.sever(&self.epoll);
        }
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.lose(peer, &Error::Closed);
        }
        self.pool.close();
    }

    /// Lets go of what is left when everything has ended.
    pub(super) fn clear(&mut self) {
        debug_assert!(self.peers.is_empty() && self.transfers.is_empty(), "all have ended");
        for (token, _) in self.granted.drain() {
            self.events.push(Event::Freed(token));
        }
        self.leases = Leases::default();
        self.loans.settle(self.options.stop_within);
        self.registry = Registry::default();
        self.shares.clear();
        self.timers = Timers::default();
    }
}

impl Peer {
    fn new(identity: Identity, state: State, link: Option<Link>) -> Self {
        Self {
            identity,
            state,
            socket: link.as_ref().map(|link| Arc::clone(&link.socket)),
            link,
            sources: HashMap::new(),
            told: HashSet::new(),
            collecting: None,
            reading: HashMap::new(),
            writing: HashMap::new(),
            jobs: 0,
            pieces: 0,
        }
    }

    /// Appends frames to what goes out to it, if it is there.
    fn say(&mut self, frames: impl FnOnce(&mut Vec<u8>)) {
        if let Some(link) = &mut self.link {
            link.say(frames);
        }
    }

    fn lane(&self) -> Lane {
        let any = |is: fn(&Source) -> bool| self.sources.values().any(|source| is(source));
        let transport = if any(|source| matches!(source, Source::Device(_))) {
            "shm+cuda"
        } else if any(|source| matches!(source, Source::Process { .. })) {
            "shm+cma"
        } else {
            "shm"
        };
        Lane {
            transport: transport.into(),
            device: String::new(),
            copying: crate::fabric::Copying::ZeroCopy,
            encrypted: false,
        }
    }
}
