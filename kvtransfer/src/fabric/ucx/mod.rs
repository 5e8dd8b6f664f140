//! The fabric over UCX: InfiniBand, RoCE and EFA, device memory, and whatever else its library finds on a machine.
//!
//! One context and one worker, owned by one thread. Bytes move one-sided: the side that asks puts or gets, the other's
//! processor is not needed where the device can do without. Messages (who is there, who may what, what is over) are UCX's
//! active messages on the same way.
//!
//! **Leases, with one-sided access.** A key opens a whole region. So metadata carries none; before anything moves, the side
//! that asks sends the token and every range to the owner, which checks them, counts the lease as in use, and answers with
//! keys to the regions that are named (each once for a peer). When nothing is under way any more, the peer says so, and the
//! use ends; or it ends with the connection. What that is worth:
//! - Among agents that keep to the protocol: everything a lease promises. [`Event::Freed`] comes after the last byte.
//! - Against a peer that does not: a key that it was given opens the region's other bytes, too, until the connection ends or
//!   the region is deregistered. And UCX itself trusts whoever can connect to its worker: some of its transports (TCP, for
//!   one) write where a message says. So use this fabric where every process that can reach its ports is trusted, and
//!   [`tcp`](super::tcp) elsewhere.
//! - A peer that is stopped in the middle and is parted from ([`UcxOptions::stop_within`]) cannot write through a device any
//!   more; over `cma` its process copies by itself, and could end a copy of at most 4 MiB when it wakes.
//!
//! **Lanes.** UCX falls back to messages between the two processors, several times slower, without a word. Here the choice
//! is read back from UCX for every peer: [`Lane::copying`] is [`Emulated`](super::Copying::Emulated) then, and with
//! [`Want::Rdma`] it is an error. One cause of it is avoided altogether (`RNDV_THRESH`, see [`UcxOptions`]).
//!
//! **A peer's death, where UCX makes messages of reads** (`tcp`, and everything before UCX 1.20 within one host): UCX itself
//! may end this process when a peer dies while answers to its reads are on their way (seen with 1.23: some call of its own
//! fails, which it takes for impossible). There, the [`tcp`](super::tcp) fabric is safer, and faster. [`Want::ZeroCopy`]
//! refuses such lanes.
//!
//! **Checksums** ([`Request::checksum`](super::Request)) are CRC-32 of each range, made by both sides beside the transfer, of
//! host memory only.

mod cut;
mod engine;
mod lanes;
mod library;
mod limits;
mod message;
mod metadata;
mod names;
mod options;
mod raw;
mod shared;
mod survey;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use bytes::Bytes;
use kvferry_ucx_sys::Library;

use self::engine::{Engine, Op};
use self::limits::{MAX_UNPOLLED, MESSAGE_OVERHEAD};
use self::metadata::Metadata;
use self::raw::{Context, Worker};
use self::shared::{Command, Shared};
use super::common::{Identity, regions};
use super::{Backend, Event, Fabric, Lane, Limits, Request};
use crate::lease::Lease;
use crate::memory::{Kind, Region};
use crate::{Error, PeerId, RegionId, Token, TransferId};

pub use options::{UcxOptions, Want};
pub use survey::{Resource, Survey};

/// The UCX fabric. Where [`Lane::copying`] is not [`ZeroCopy`](super::Copying::ZeroCopy), a peer's death can end this process,
/// by a fault of UCX's: see the [module](self).
#[derive(Debug)]
pub struct UcxFabric {
    shared: Arc<Shared>,
    library: Arc<Library>,
    me: Metadata,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl UcxFabric {
    /// Loads UCX, if this process has not yet, and opens the fabric.
    ///
    /// # Errors
    /// [`Error::Library`]: there is no UCX of use (with all that was tried), or it does not take the settings;
    /// [`Error::Lane`]: RDMA is wanted, and this machine has none; or the machine has no thread or descriptors to give.
    pub fn open(options: UcxOptions) -> Result<Self, Error> {
        let library = library::load(options.library.as_deref())?;
        let shared = Arc::new(Shared::new()?);
        let (answer, opened) = sync_channel(1);
        let (ucx, state) = (Arc::clone(&library), Arc::clone(&shared));
        let run = move || {
            let _closes = ClosesInbox(Arc::clone(&state));
            match start(ucx, &options) {
                Ok((me, worker)) => {
                    // Whoever opens it waits for this, and nothing else.
                    drop(answer.send(Ok(me.clone())));
                    Engine::new(state, me, options, worker).run();
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        };
        let thread = Builder::new().name("kv-ucx".into()).spawn(run);
        let thread = thread.map_err(|error| Error::system("starting a thread of the UCX fabric", &error))?;
        match opened.recv().unwrap_or(Err(Error::Closed)) {
            Ok(me) => Ok(Self { shared, library, me, thread: Mutex::new(Some(thread)) }),
            Err(error) => {
                joined(thread);
                Err(error)
            }
        }
    }

    /// The file that UCX was loaded from.
    pub fn library(&self) -> &Path {
        self.library.file()
    }

    /// UCX's version, such as `1.22.0`.
    pub fn version(&self) -> String {
        self.library.version().to_string()
    }
}

/// Opens UCX on this thread.
fn start(ucx: Arc<Library>, options: &UcxOptions) -> Result<(Metadata, Worker<Op>), Error> {
    let which = format!("UCX {} ({})", ucx.version(), ucx.file().display());
    let of_no_use = |why: String| Error::Library(format!("{which} is of no use: {why}"));
    let settings = options.settings(ucx.version(), |name| std::env::var_os(name).is_some());
    let context = Rc::new(Context::open(ucx, &settings).map_err(of_no_use)?);
    if options.want == Want::Rdma {
        let found = lanes::found(&context.describe());
        if !found.iter().any(|resource| lanes::is_rdma(resource)) {
            let found = format!("one of {} ({which} finds no more)", found.join(", "));
            return Err(Error::Lane("RDMA".into(), found));
        }
    }
    let failed = |status: raw::Status| of_no_use(status.text(context.ucx()));
    let worker = Worker::new(&context).map_err(failed)?;
    let address = worker.address().map_err(failed)?;
    let identity = Identity { name: options.name.clone(), epoch: options.epoch };
    Ok((Metadata { identity, address }, worker))
}

/// Lets nobody wait for a thread that has ended, however it did.
struct ClosesInbox(Arc<Shared>);

impl Drop for ClosesInbox {
    fn drop(&mut self) {
        self.0.inbox.close();
    }
}

fn joined(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        debug_assert!(false, "the thread of the UCX fabric has panicked");
    }
}

impl Fabric for UcxFabric {
    fn backend(&self) -> Backend {
        Backend::Ucx
    }

    fn register(&self, region: Region) -> Result<RegionId, Error> {
        let (answer, registered) = sync_channel(1);
        let id = {
            let mut pages = self.shared.ledger.pages();
            pages.open()?;
            let id = pages.registry.add(region.clone())?;
            self.shared.inbox.push(Command::Register(id, region, answer));
            id
        };
        let result = waited(&registered).and_then(|result| result);
        if result.is_err() {
            // Nobody knows its number; after closing it is gone already.
            drop(self.shared.ledger.pages().registry.remove(id));
        }
        result.map(|()| id)
    }

    fn deregister(&self, region: RegionId) -> Result<(), Error> {
        let (answer, done) = sync_channel(1);
        {
            let mut pages = self.shared.ledger.pages();
            pages.open()?;
            pages.registry.get(region)?;
            if pages.names(region) {
                return Err(Error::RegionBusy(region));
            }
            pages.registry.remove(region)?;
            self.shared.inbox.push(Command::Deregister(region, answer));
        }
        waited(&done)
    }

    fn metadata(&self) -> Result<Bytes, Error> {
        self.shared.ledger.pages().open()?;
        Ok(self.me.encode().into())
    }

    fn connect(&self, metadata: &[u8]) -> Result<PeerId, Error> {
        let Metadata { identity, address } = Metadata::decode(metadata)?;
        let mut pages = self.shared.ledger.pages();
        pages.open()?;
        if identity == self.me.identity {
            return Err(Error::Metadata("it is this side's own"));
        }
        let id = self.shared.names().name(&identity)?;
        let new = pages.peer(id).is_none();
        pages.know(id).named = true;
        if new {
            self.shared.inbox.push(Command::Connect(id, identity, address));
        }
        Ok(id)
    }

    fn disconnect(&self, peer: PeerId) {
        self.shared.inbox.push(Command::Disconnect(peer));
    }

    fn grant(&self, lease: Lease) -> Result<(), Error> {
        let watch = Command::Watch(lease.token, lease.deadline);
        self.shared.ledger.pages().grant(lease)?;
        self.shared.inbox.push(watch);
        Ok(())
    }

    fn revoke(&self, token: Token) {
        if self.shared.ledger.end_lease(token) {
            self.shared.inbox.push(Command::Revoked(token));
        }
    }

    fn submit(&self, request: Request) -> Result<TransferId, Error> {
        let mut pages = self.shared.ledger.pages();
        pages.open()?;
        pages.peer_in_use(request.peer)?;
        request.check(&pages.registry)?;
        let named = regions(&request.segments);
        for region in &named {
            let kind = pages.registry.get(*region)?.kind();
            if request.checksum && kind != Kind::Host {
                return Err(Error::MemoryKind(kind.name()));
            }
        }
        if pages.under_way + self.shared.ledger.events.ends() >= Limits::MAX_TRANSFERS {
            return Err(Error::Full("transfers under way, or ended and not polled (16 Ki)"));
        }
        if let Some(message) = &request.notify {
            take_room(&mut pages.peer_in_use(request.peer)?.unpolled, message)?;
        }
        let id = TransferId(pages.next_transfer);
        pages.next_transfer += 1;
        pages.begin(&named);
        // Before the lock is let go: whoever parts from the peer afterwards finds it there.
        self.shared.inbox.push(Command::Submit(id, request));
        Ok(id)
    }

    fn cancel(&self, transfer: TransferId) {
        self.shared.inbox.push(Command::Cancel(transfer));
    }

    fn notify(&self, peer: PeerId, message: Bytes) -> Result<(), Error> {
        if message.len() > Limits::MAX_MESSAGE {
            return Err(Error::Full("bytes of a message (64 KiB)"));
        }
        let mut pages = self.shared.ledger.pages();
        pages.open()?;
        take_room(&mut pages.peer_in_use(peer)?.unpolled, &message)?;
        self.shared.inbox.push(Command::Notify(peer, message));
        Ok(())
    }

    fn poll(&self, events: &mut Vec<Event>) -> usize {
        let drained = self.shared.ledger.events.drain(events);
        if drained.was_full {
            self.shared.inbox.push(Command::Resume);
        }
        drained.count
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.ledger.events.wake_fd()
    }

    fn lane(&self, peer: PeerId) -> Option<Lane> {
        self.shared.ledger.pages().lane(peer)
    }

    fn close(&self) {
        // Held until all is over, so that whoever else closes it meanwhile also finds it closed.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else { return };
        self.shared.ledger.pages().closed = true;
        self.shared.inbox.push(Command::Close);
        joined(thread);
    }
}

impl Drop for UcxFabric {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts a message towards what a peer has not polled.
fn take_room(unpolled: &mut usize, message: &Bytes) -> Result<(), Error> {
    let weight = message.len() + MESSAGE_OVERHEAD;
    if *unpolled + weight > MAX_UNPOLLED {
        return Err(Error::Full("bytes of messages that a peer has not polled (16 MiB)"));
    }
    *unpolled += weight;
    Ok(())
}

/// The progress thread's answer.
fn waited<T>(answer: &Receiver<T>) -> Result<T, Error> {
    answer.recv().map_err(|_| Error::Closed)
}
