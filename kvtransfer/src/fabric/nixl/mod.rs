//! The fabric over NIXL: any of its plugins that reaches peers (`UCX`, `LIBFABRIC`, ...), by name; and beside it
//! [`Storage`] for those that reach files and objects (`POSIX`, `GDS`, `OBJ`, ...), and [`plugins`], which tells those that
//! are listed from those that are of use on a machine.
//!
//! Bytes move one-sided, by NIXL. All else goes over a **control connection** of our own, which is a [TCP fabric](super::tcp)
//! without regions: its names, epochs, secret and encryption are this fabric's. NIXL's own messages are used for one thing:
//! when two meet, each sends the other a proof through NIXL, and neither can be used before both have arrived.
//!
//! **Leases, with one-sided access.** As in [`ucx`](super::ucx): a key opens a whole region, so metadata carries none; the
//! owner checks every range before anything moves, counts the lease as in use, and gives keys to the regions that are named.
//! Among agents that keep to the protocol a lease is all that it promises. A peer that does not could use a key that it was
//! given until its region is deregistered; and where a plugin listens on the network, it trusts whoever reaches it.
//!
//! **A peer's death.** NIXL's C API folds it into the one number for "the backend failed". Here the control connection tells
//! it, when it breaks or nothing is heard for a while; so a dead peer is [`Lost`](super::Event::Lost) as such, also when
//! nothing was under way, and what was is let end by NIXL first. What cannot be told: whether a peer that is there, and to
//! which NIXL's way has broken, could be reached by another (it is parted from, and can be met again); and when a request is
//! over that NIXL was made to drop because its peer stood still for [`NixlOptions::stop_within`] (it is given a tenth of a
//! second, and its memory stays registered for good). Where UCX carries the bytes by messages, UCX itself may end the process
//! when a peer dies, as the `ucx` fabric's notes say.
//!
//! **Lanes.** NIXL does not tell what carries the bytes: [`Lane::copying`] is [`Untold`](super::Copying::Untold). Who must
//! know takes the `ucx` fabric.
//!
//! **Prepared blocks.** A request names moves by address, and NIXL looks each up (35 to 85 ns for each, measured); or by
//! numbers of blocks that were looked up before (15 to 25 ns, and once for each block and side 30 to 80 ns).
//! [`NixlFabric::blocks`] prepares a region; transfers that are whole blocks on both sides go by number then. Preparing lists
//! for a single transfer costs more than it saves. Of moving 16 KiB, either is one part in a hundred.
//!
//! **Checksums** ([`Request::checksum`](super::Request)) are CRC-32 of each range, made by both sides beside the transfer, of
//! host memory only.

mod cut;
mod engine;
mod held;
mod library;
mod limits;
mod message;
mod metadata;
mod opening;
mod options;
mod patience;
mod probe;
mod raw;
mod shared;
mod storage;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use kvferry_nixl_sys::Library;

use self::engine::Engine;
use self::limits::{MAX_UNPOLLED, MESSAGE_OVERHEAD};
use self::metadata::Metadata;
use self::opening::{ClosesOnDrop, joined, start, waited};
use self::shared::{Command, Shared};
use super::common::{Doorbell, Identity, Inbox, Ledger, regions};
use super::tcp::TcpFabric;
use super::{Backend, Event, Fabric, Lane, Limits, Request};
use crate::lease::Lease;
use crate::memory::{Kind, Region};
use crate::{Error, PeerId, RegionId, Token, TransferId};

pub use options::NixlOptions;
pub use probe::{Plugin, Plugins, Probe, Verdict, answer_probe, plugins};
pub use shared::Telemetry;
pub use storage::{Mode, Storage, StorageOptions};

/// The NIXL fabric: see the [module](self).
#[derive(Debug)]
pub struct NixlFabric {
    shared: Arc<Shared>,
    library: Arc<Library>,
    me: Identity,
    plugin: String,
    telemetry: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl NixlFabric {
    /// Loads NIXL, if this process has not yet, creates the plugin's backend, and listens for peers.
    ///
    /// # Errors
    /// [`Error::Library`]: there is no NIXL of use (with all that was tried), it has no such plugin (with those that it
    /// has), or the plugin cannot be created; [`Error::Limit`]: the control connection's options are out of bounds; or the
    /// machine has no thread, port or descriptors to give.
    pub fn open(options: NixlOptions) -> Result<Self, Error> {
        let library = library::load(options.library.as_deref())?;
        let (plugin, telemetry) = (options.plugin.clone(), options.telemetry);
        let me = Identity { name: options.control.name.clone(), epoch: options.control.epoch };
        let control = TcpFabric::open(options.control.clone())?;
        let shared = Shared {
            ledger: Ledger::new()?,
            inbox: Inbox::new(Doorbell::new()?),
            control,
            measured: Mutex::default(),
            submitting: AtomicU64::new(0),
        };
        let shared = Arc::new(shared);
        let (answer, opened) = sync_channel(1);
        let (nixl, state, identity) = (Arc::clone(&library), Arc::clone(&shared), me.clone());
        let run = move || {
            let closed = Arc::clone(&state);
            let _closes = ClosesOnDrop(|| closed.inbox.close());
            match start(&nixl, &options, &identity) {
                Ok((agent, info)) => {
                    // Whoever opens it waits for this, and nothing else.
                    drop(answer.send(Ok(())));
                    Engine::new(state, identity, options, agent, info).run();
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        };
        let thread = Builder::new().name("kv-nixl".into()).spawn(run);
        let thread = thread.map_err(|error| Error::system("starting a thread of the NIXL fabric", &error))?;
        match opened.recv().unwrap_or(Err(Error::Closed)) {
            Ok(()) => Ok(Self { shared, library, me, plugin, telemetry, thread: Mutex::new(Some(thread)) }),
            Err(error) => {
                joined(thread);
                Err(error)
            }
        }
    }

    /// The file that NIXL was loaded from.
    pub fn library(&self) -> &Path {
        self.library.file()
    }

    /// NIXL's version, as far as it is known.
    pub fn version(&self) -> String {
        self.library.version().to_string()
    }

    /// Prepares a region as blocks of `len` bytes, from its first byte on: 1 byte to 4 MiB each, and at most 1 Mi of them.
    /// Transfers of it whose segments are such blocks, here and at the peer, cost less from then on; all others go as before.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`], or [`Error::Limit`].
    pub fn blocks(&self, region: RegionId, len: u64) -> Result<(), Error> {
        let (answer, done) = sync_channel(1);
        self.order(|| Command::Blocks(region, len, answer))?;
        waited(&done)?
    }

    /// For how long making and posting requests has kept the progress thread, all in all: what submitting costs, which
    /// [`submit`](Fabric::submit) itself does not show.
    pub fn submitting(&self) -> Duration {
        Duration::from_nanos(self.shared.submitting.load(Ordering::Relaxed))
    }

    /// What NIXL has measured so far, if it was [told](NixlOptions::telemetry) to.
    pub fn telemetry(&self) -> Option<Telemetry> {
        // Sums are whole even after a panic.
        let measured = || *self.shared.measured.lock().unwrap_or_else(PoisonError::into_inner);
        self.telemetry.then(measured)
    }

    /// Orders something, unless the fabric is closed.
    fn order(&self, command: impl FnOnce() -> Command) -> Result<(), Error> {
        let pages = self.shared.ledger.pages();
        pages.open()?;
        self.shared.inbox.push(command());
        Ok(())
    }
}

impl Fabric for NixlFabric {
    fn backend(&self) -> Backend {
        Backend::Nixl
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
        let (answer, done): (SyncSender<()>, _) = sync_channel(1);
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
        let control = self.shared.control.metadata()?.to_vec();
        let (identity, plugin) = (self.me.clone(), self.plugin.clone());
        Ok(Metadata { identity, plugin, control }.encode().into())
    }

    fn connect(&self, metadata: &[u8]) -> Result<PeerId, Error> {
        let Metadata { identity, plugin, control } = Metadata::decode(metadata)?;
        // Held until the order is given: the progress thread looks here when it hears of a peer that it does not know.
        let mut pages = self.shared.ledger.pages();
        pages.open()?;
        if identity == self.me {
            return Err(Error::Metadata("it is this side's own"));
        }
        if plugin != self.plugin {
            return Err(Error::Metadata("it goes by another plugin of NIXL's"));
        }
        let id = self.shared.control.connect(&control)?;
        let new = pages.peer(id).is_none();
        pages.know(id).named = true;
        if new {
            self.shared.inbox.push(Command::Connect(id, identity));
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

impl Drop for NixlFabric {
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
