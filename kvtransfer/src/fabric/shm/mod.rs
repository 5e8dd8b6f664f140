//! The fabric for two processes of one host.
//!
//! A Unix socket carries requests, and each region's file (memfd) once. Bytes do not travel: **the side whose memory is the
//! destination copies them, from a mapping of the source that can only be read**. So nobody ever maps a peer's memory
//! writable, and a peer that goes mad can spoil its own memory only.
//!
//! - A read: the owner checks the lease and says to go ahead; this side copies, and says when it is over. The lease is in
//!   use until then, or until the connection ends.
//! - A write: the owner checks the lease, copies from the source that it was told, answers, and delivers the message.
//!
//! A copy counts only if the connection was whole after its last byte: whoever lets go of memory ends the connection first
//! (`socket::is_whole`).
//!
//! **What a lease is worth.** It guards the owner's memory against writes, and both sides against bytes that are used again
//! too early. Against a peer that reads what it was not allowed to, it does not: a region's file shows the whole region, to
//! processes of the same user (or of the users that were allowed). Who must not see it must not connect: there the other
//! fabrics serve, which give away ranges only.
//!
//! **Checksums.** [`Request::checksum`](crate::fabric::Request::checksum) is kept by comparison: when all is copied, the
//! destination is compared with the source, byte by byte. A checksum by the source's owner would be of the same bytes in the
//! same memory, could say less (it can collide), and would cost as much. It finds sources that changed while they were
//! copied, and memory that does not hold what is stored.
//!
//! Regions that are no arena have no file. The kernel copies them out of the other process then (CMA,
//! `process_vm_readv`), where it is allowed to; [`Lane`] tells.
//!
//! **Device memory** of [`Kind::Cuda`](crate::memory::Kind::Cuda) is mapped by CUDA IPC instead of a file, and copied by the
//! device's engines, to and from host memory as well. What a lease is worth there is the same, but for one thing: the mapping
//! can be written, since the driver has no other. A region that was let go of is freed when all peers have closed it.

mod copy;
mod core;
mod device;
mod frame;
mod job;
mod metadata;
mod options;
mod pool;
mod progress;
mod socket;
mod source;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use self::core::Core;
use self::metadata::Metadata;
use self::pool::Pool;
use self::socket::{Address, Listener};
use super::common::{EventQueue, Identity};
use super::{Backend, Event, Fabric, Lane, Request};
use crate::lease::{Lease, Refused};
use crate::memory::Region;
use crate::{Error, PeerId, RegionId, Token, TransferId};

pub use options::{Listen, MAX_THREADS, Options};

/// The shm fabric.
#[derive(Debug)]
pub struct Shm {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Inner {
    core: Mutex<Core>,
    events: Arc<EventQueue>,
    pool: Arc<Pool>,
    epoll: Arc<Epoll>,
    /// Wakes the event loop: something earlier is due, or it is to end.
    nudge: EventFd,
}

impl Inner {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("nothing panics while it holds the fabric's state")
    }

    /// Does something that may make something due earlier than the event loop knows.
    fn timed<T>(&self, act: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core();
        let before = core.timers.next();
        let done = act(&mut core);
        let after = core.timers.next();
        drop(core);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.nudge();
        }
        done
    }

    fn nudge(&self) {
        // It fails only if the counter is full: the loop is awake then.
        self.nudge.write(1).ok();
    }

    fn nudged(&self) {
        // It fails only if nobody nudged, after all.
        self.nudge.read().ok();
    }
}

impl Shm {
    /// Opens the fabric: peers can knock from now on.
    ///
    /// # Errors
    /// [`Error::Limit`] for more than [`MAX_THREADS`] threads, or if another process listens there; else what the machine
    /// says that has no such socket, descriptors or threads to give.
    pub fn open(options: Options) -> Result<Self, Error> {
        if options.threads.get() > MAX_THREADS {
            let asked = options.threads;
            return Err(Error::Limit(format!(
                "{asked} copying threads were asked for; use at most {MAX_THREADS}"
            )));
        }
        let system = |what| move |errno: nix::errno::Errno| Error::System(what, errno as i32);
        let (listener, address) = listen(&options)?;
        let identity = Identity { name: options.name.clone(), epoch: options.epoch };
        let me = Metadata { identity, host: metadata::host()?, address };
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("epoll_create"))?);
        let nudge =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(system("eventfd"))?;
        let watch = |number| EpollEvent::new(EpollFlags::EPOLLIN, number);
        epoll.add(&listener, watch(progress::LISTENER)).map_err(system("epoll_ctl"))?;
        epoll.add(&nudge, watch(progress::NUDGE)).map_err(system("epoll_ctl"))?;
        let (events, pool) = (Arc::new(EventQueue::new()?), Arc::new(Pool::default()));
        let threads = options.threads.get();
        let core =
            Core::new(me, options, Arc::clone(&events), Arc::clone(&pool), Arc::clone(&epoll), listener);
        let inner = Arc::new(Inner { core: Mutex::new(core), events, pool, epoll, nudge });
        // Dropping it closes it, so that a thread that cannot be had leaves none behind.
        let fabric = Self { inner, threads: Mutex::default() };
        fabric.spawn("kv-shm", progress::run)?;
        for _ in 0..threads {
            fabric.spawn("kv-shm-copy", progress::copy)?;
        }
        Ok(fabric)
    }

    fn spawn(&self, name: &str, run: fn(&Inner)) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let thread = Builder::new().name(name.into()).spawn(move || run(&inner));
        let thread = thread.map_err(|error| Error::system("starting a thread of the shm fabric", &error))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }
}

/// How many names are tried: several fabrics of one process may have the same epoch.
const NAMES: u32 = 1000;

fn listen(options: &Options) -> Result<(Listener, Address), Error> {
    let strangers = !options.uids.is_empty();
    let open = |address: Address| Listener::open(&address, strangers).map(|listener| (listener, address));
    match &options.listen {
        Listen::Path(path) => open(Address::Path(path.clone())),
        Listen::Abstract => {
            let name = |number| format!("kvferry-shm-{}-{}-{number}", options.epoch, std::process::id());
            let mut tried = (0..NAMES).map(|number| open(Address::Abstract(name(number).into_bytes())));
            let taken =
                |error: &Error| matches!(error, Error::System(_, errno) if *errno == libc::EADDRINUSE);
            tried
                .find(|opened| !opened.as_ref().is_err_and(taken))
                .unwrap_or(Err(Error::Full("shm fabrics of one epoch and process (1000)")))
        }
    }
}

impl Fabric for Shm {
    fn backend(&self) -> Backend {
        Backend::Shm
    }

    fn register(&self, region: Region) -> Result<RegionId, Error> {
        self.inner.core().register(region)
    }

    fn deregister(&self, region: RegionId) -> Result<(), Error> {
        self.inner.core().deregister(region)
    }

    fn metadata(&self) -> Result<Bytes, Error> {
        self.inner.core().metadata()
    }

    fn connect(&self, metadata: &[u8]) -> Result<PeerId, Error> {
        self.inner.timed(|core| core.connect(metadata))
    }

    fn disconnect(&self, peer: PeerId) {
        self.inner.core().disconnect(peer);
    }

    fn grant(&self, lease: Lease) -> Result<(), Error> {
        self.inner.timed(|core| core.grant(lease))
    }

    fn revoke(&self, token: Token) {
        self.inner.timed(|core| core.end_lease(token, Refused::NoLease));
    }

    fn submit(&self, request: Request) -> Result<TransferId, Error> {
        self.inner.timed(|core| core.submit(request))
    }

    fn cancel(&self, transfer: TransferId) {
        self.inner.timed(|core| core.give_up(transfer, Error::Cancelled));
    }

    fn notify(&self, peer: PeerId, message: Bytes) -> Result<(), Error> {
        self.inner.core().notify(peer, &message)
    }

    fn poll(&self, events: &mut Vec<Event>) -> usize {
        let drained = self.inner.events.drain(events);
        if drained.was_full {
            self.inner.core().resume();
        }
        drained.count
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.inner.events.wake_fd()
    }

    fn lane(&self, peer: PeerId) -> Option<Lane> {
        self.inner.core().lane(peer)
    }

    fn close(&self) {
        // Held until all is over, so that whoever else closes it meanwhile also finds it closed.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.is_empty() {
            return;
        }
        self.inner.core().close();
        self.inner.nudge();
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                debug_assert!(false, "a thread of the shm fabric has panicked");
            }
        }
        self.inner.core().clear();
    }
}

impl Drop for Shm {
    fn drop(&mut self) {
        self.close();
    }
}
