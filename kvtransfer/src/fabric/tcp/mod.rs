//! TCP: the fabric for where there is no RDMA. A few streams go to each peer; requests name ranges, and data goes by
//! vectored calls straight from one side's regions into the other's, without a copy in between and without a thread of
//! the caller's waiting.
//!
//! From the bottom up:
//! - pure: [`metadata`], [`hello`] and [`wire`] are what is said, [`cut`] makes chunks of transfers and [`turns`] lets
//!   them take turns, [`book`] knows the leases, [`state`] all the rest;
//! - [`memory`], [`places`], [`socket`], [`tls`] and [`digest`] touch bytes;
//! - [`stream`] is one connection, [`engine`] many of them, [`thread`] drives one; [`attention`] says when callers do its
//!   work.
//!
//! Each side's own streams carry its own requests: two that connect to each other at once get one way each, and need not
//! agree on which is kept.

mod attention;
mod book;
mod cut;
mod digest;
mod engine;
mod hello;
mod hmac;
mod inbuf;
mod limits;
mod memory;
mod metadata;
mod numbers;
mod options;
mod orders;
mod places;
mod shared;
mod socket;
mod state;
mod stream;
mod thread;
mod tls;
mod turns;
mod wire;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;

use self::engine::Engine;
use self::limits::{CHUNK_BYTES, MAX_ADDRESSES, MAX_STREAMS};
use self::metadata::Metadata;
use self::shared::{Shared, Worker, lock};
use self::socket::{Listener, host_addresses};
use self::thread::run;
use super::{Backend, Event, Fabric, Lane, Limits, Request};
use crate::memory::{Kind, Region, Registry};
use crate::{Error, Lease, PeerId, RegionId, Token, TransferId};

pub use options::{Secret, TcpOptions};
pub use tls::{Tls, TlsProblem};

/// See the module.
#[derive(Debug)]
pub struct TcpFabric {
    shared: Arc<Shared>,
    listening: Vec<SocketAddr>,
    /// Where peers are told that it is.
    addresses: Vec<SocketAddr>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl TcpFabric {
    /// Listens, and starts the progress threads.
    ///
    /// # Errors
    /// [`Error::Limit`] if the options are out of bounds, or what the machine says.
    pub fn open(options: TcpOptions) -> Result<Self, Error> {
        options.check()?;
        let listeners = options.listen.iter().map(|address| Listener::bind(*address));
        let listeners: Vec<Listener> = listeners
            .collect::<Result<_, _>>()
            .map_err(|error| Error::system("listening for peers", &error))?;
        let listening = listeners.iter().map(Listener::address);
        let listening: Vec<SocketAddr> = listening
            .collect::<Result<_, _>>()
            .map_err(|error| Error::system("a listener's address", &error))?;
        let addresses = reachable(&options, &listening)?;
        let (now, threads) = (Instant::now(), options.threads);
        let mut listeners = Some(listeners);
        let workers = (0..threads)
            .map(|index| Worker::new(Engine::new(index, listeners.take().unwrap_or_default(), now)))
            .collect::<Result<Vec<_>, _>>()?;
        let shared = Arc::new(Shared::new(options, workers)?);
        for worker in &shared.workers {
            worker.engine().watch(worker)?;
        }
        let fabric = Self { shared, listening, addresses, threads: Mutex::default() };
        for index in 0..threads {
            let shared = Arc::clone(&fabric.shared);
            let thread = std::thread::Builder::new()
                .name(format!("kvferry-tcp-{index}"))
                .spawn(move || run(&shared, index))
                .map_err(|error| Error::system("starting a progress thread", &error))?;
            lock(&fabric.threads).push(thread);
        }
        Ok(fabric)
    }

    /// Where it listens, one for each that was asked for, with the ports it got.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
}

/// Where peers reach the listeners.
fn reachable(options: &TcpOptions, listening: &[SocketAddr]) -> Result<Vec<SocketAddr>, Error> {
    if !options.advertise.is_empty() {
        return Ok(options.advertise.clone());
    }
    let mut addresses = Vec::new();
    for own in listening {
        if own.ip().is_unspecified() {
            addresses.extend(host_addresses(own.ip()).into_iter().map(|ip| SocketAddr::new(ip, own.port())));
        } else {
            addresses.push(*own);
        }
    }
    addresses.truncate(MAX_ADDRESSES);
    if addresses.is_empty() {
        return Err(Error::Limit(
            "no address of this host is known; name one to listen on or to advertise".into(),
        ));
    }
    Ok(addresses)
}

impl Fabric for TcpFabric {
    fn backend(&self) -> Backend {
        Backend::Tcp
    }

    fn register(&self, region: Region) -> Result<RegionId, Error> {
        if region.kind() != Kind::Host {
            return Err(Error::MemoryKind(region.kind().name()));
        }
        let mut registry = self.shared.registry_mut();
        self.shared.with(|state| state.open())?;
        registry.add(region)
    }

    fn deregister(&self, region: RegionId) -> Result<(), Error> {
        let mut registry = self.shared.registry_mut();
        registry.get(region)?;
        if self.shared.with(|state| state.names(region)) {
            return Err(Error::RegionBusy(region));
        }
        registry.remove(region).map(drop)
    }

    fn metadata(&self) -> Result<Bytes, Error> {
        self.shared.with(|state| state.open())?;
        let regions = self.shared.registry().iter().map(|(id, region)| (id, region.len())).collect();
        let identity = self.shared.own.clone();
        Ok(Metadata { identity, addresses: self.addresses.clone(), regions }.encode().into())
    }

    fn connect(&self, metadata: &[u8]) -> Result<PeerId, Error> {
        let metadata = Metadata::parse(metadata)?;
        if metadata.identity == self.shared.own {
            return Err(Error::Metadata("it is this agent's own"));
        }
        let streams = self.shared.options.streams;
        self.shared.with(|state| state.connect(metadata, streams, MAX_STREAMS))
    }

    fn disconnect(&self, peer: PeerId) {
        self.shared.with(|state| state.disconnect(peer));
    }

    fn grant(&self, lease: Lease) -> Result<(), Error> {
        let registry = self.shared.registry();
        for span in &lease.spans {
            registry.address(*span)?;
        }
        self.shared.with(|state| state.grant(lease))
    }

    fn revoke(&self, token: Token) {
        self.shared.with(|state| state.revoke(token, Instant::now()));
    }

    fn submit(&self, request: Request) -> Result<TransferId, Error> {
        let regions = self.shared.with(|state| state.regions_of(request.peer))?;
        // Held until the transfer is known, so that none of its regions is let go in between.
        let registry = self.shared.registry();
        request.check(&registry)?;
        let mut bytes = 0_u64;
        for segment in &*request.segments {
            let there = segment.there();
            // A region that was registered since is not known here; its owner knows.
            if let Some(len) = regions.get(&there.at.region)
                && there.end().is_none_or(|end| end > *len)
            {
                return Err(Error::OutOfRegion(there.at.region, *len));
            }
            bytes = bytes.saturating_add(segment.len);
        }
        let brief = bytes <= CHUNK_BYTES;
        let ((submitted, alone, all_brief), orders) = self.shared.look(|state| {
            let submitted = state.submit(request, brief, Instant::now());
            (submitted, state.is_alone(), state.is_brief())
        });
        drop(registry);
        self.shared.attend(all_brief);
        if all_brief && alone {
            // Who begins one thing waits for it, as a rule.
            self.shared.workers.iter().for_each(|worker| worker.helped.once_more());
            self.shared.just_begun.store(true, Ordering::Relaxed);
        }
        // A chunk is begun at once, by this thread, which saves waking the other; more would keep the caller too long.
        if brief {
            self.shared.obey(orders);
        } else {
            self.shared.post(orders);
        }
        submitted
    }

    fn cancel(&self, transfer: TransferId) {
        self.shared.with(|state| state.cancel(transfer));
    }

    fn notify(&self, peer: PeerId, message: Bytes) -> Result<(), Error> {
        if message.len() > Limits::MAX_MESSAGE {
            return Err(Error::Full("bytes of a message (64 KiB)"));
        }
        let (sent, orders) = self.shared.look(|state| state.notify(peer, message));
        self.shared.obey(orders);
        sent
    }

    fn poll(&self, events: &mut Vec<Event>) -> usize {
        let (shared, before) = (&self.shared, events.len());
        let attended = shared.events.attend();
        // What callers sleep on tells of sockets as well, while it is wanted: nothing is missed by not looking at once.
        let too_early = shared.just_begun.swap(false, Ordering::Relaxed) && shared.attention.is_wanted();
        if shared.events.drain(events).count == 0 && !too_early {
            // Who polls is waiting: the work is done here, if nobody does it.
            for worker in &shared.workers {
                if !shared.help(worker, true) {
                    // Somebody is at it, so there is no point in looking again before there are events.
                    shared.attend(false);
                }
            }
            shared.events.drain(events);
        }
        drop(attended);
        let messages = || {
            events[before..].iter().filter_map(|event| match event {
                Event::Notified(sender, message) => Some((*sender, message.len())),
                _ => None,
            })
        };
        if messages().next().is_some() {
            shared.with(|state| messages().for_each(|(sender, len)| state.polled(sender, len)));
        }
        events.len() - before
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.attention.as_fd()
    }

    fn lane(&self, peer: PeerId) -> Option<Lane> {
        self.shared.with(|state| state.lane(peer))
    }

    fn close(&self) {
        if !self.shared.with(state::State::close) {
            return;
        }
        self.shared.stopping.store(true, Ordering::SeqCst);
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            self.shared.workers.iter().for_each(|worker| worker.orders().call());
            // If it panicked there is nobody left to wait for.
            let _ = thread.join();
        }
        for worker in &self.shared.workers {
            worker.engine().close_all(&self.shared, worker);
            drop(worker.orders().take());
        }
        self.shared.with(|state| state.finish(Instant::now()));
        *self.shared.registry_mut() = Registry::default();
    }
}

impl Drop for TcpFabric {
    fn drop(&mut self) {
        self.close();
    }
}
