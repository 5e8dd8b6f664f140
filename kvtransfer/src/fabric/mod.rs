//! Fabrics: ways to move bytes between the regions of two processes. One trait, so that whoever uses them, and the one
//! suite that tests them, knows no difference.
//!
//! A fabric never blocks its caller: `submit`, `connect` and `notify` take what is asked for and return; what became of
//! it is an [`Event`]. Events wait in the fabric until they are polled; [`Fabric::wake_fd`] is readable while there are
//! some, so that it fits into any event loop.

mod common;
mod lane;
pub mod nixl;
pub mod shm;
pub mod tcp;
mod transfer;
pub mod ucx;

use std::os::fd::BorrowedFd;

use bytes::Bytes;

use crate::Error;
use crate::ids::{PeerId, RegionId, Token, TransferId};
use crate::lease::Lease;
use crate::memory::Region;

pub use lane::{Copying, Lane};
pub use transfer::{Direction, Limits, Request, destinations_overlap};

/// The fabrics there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// The same host: the peer's memory mapped, or copied by the kernel.
    Shm,
    /// Sockets of our own.
    Tcp,
    /// UCX: InfiniBand, RoCE, device memory, and what else it finds.
    Ucx,
    /// NIXL, with the plugin of that many names.
    Nixl,
}

impl Backend {
    /// As in flags, logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Ucx => "ucx",
            Self::Nixl => "nixl",
        }
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer can be used; and how it is reached.
    Connected(PeerId, Lane),
    /// All bytes of a transfer are where they belong.
    Done(TransferId),
    /// A transfer has ended without that. Nothing is written to its destination any more, which may hold some of the
    /// bytes, but must not be used.
    Failed(TransferId, Error),
    /// The peer sent a message. It comes after every byte that the peer had written before.
    Notified(PeerId, Bytes),
    /// A peer is gone: everything with it has failed before this event, and nothing with it comes after. Its number is not
    /// used again; connecting to it anew gives another.
    Lost(PeerId, Error),
    /// Nothing of a lease's bytes is touched any more: it was revoked, or its time has passed.
    Freed(Token),
}

/// A way to move bytes.
///
/// Every peer knows another by its [`metadata`](Self::metadata), which travels by a way of the caller's own.
pub trait Fabric: Send + Sync {
    /// Which one it is.
    fn backend(&self) -> Backend;

    /// Makes a region known, so that segments and leases can name it.
    ///
    /// # Errors
    /// [`Error::MemoryKind`] if the fabric cannot reach it, [`Error::Full`], or what the machine says.
    fn register(&self, region: Region) -> Result<RegionId, Error>;

    /// Forgets a region.
    ///
    /// # Errors
    /// [`Error::UnknownRegion`], or [`Error::RegionBusy`] while transfers or leases name it.
    fn deregister(&self, region: RegionId) -> Result<(), Error>;

    /// What a peer needs to [connect](Self::connect): who this is, which epoch, where, and which regions are registered
    /// now. It holds no secret.
    ///
    /// # Errors
    /// [`Error::Closed`], or what a library says.
    fn metadata(&self) -> Result<Bytes, Error>;

    /// Goes to meet a peer. [`Event::Connected`] or [`Event::Lost`] says how it went. Connecting twice with the same
    /// epoch's metadata gives the same number, and makes regions known that were registered since.
    ///
    /// # Errors
    /// [`Error::Metadata`], [`Error::Version`], or [`Error::Full`].
    fn connect(&self, metadata: &[u8]) -> Result<PeerId, Error>;

    /// Parts from a peer: all that is under way with it fails with [`Error::Cancelled`], and [`Event::Lost`] follows.
    fn disconnect(&self, peer: PeerId);

    /// Allows peers to reach bytes of this side.
    ///
    /// # Errors
    /// [`Error::TokenInUse`], [`Error::Full`], or [`Error::UnknownRegion`], [`Error::OutOfRegion`].
    fn grant(&self, lease: Lease) -> Result<(), Error>;

    /// Ends a lease. [`Event::Freed`] says when its bytes are touched no more (at once, if nothing uses them).
    fn revoke(&self, token: Token);

    /// Begins a transfer. Exactly one of [`Event::Done`] and [`Event::Failed`] says how it ended.
    ///
    /// # Errors
    /// What can be known at once: unknown peers and regions, ranges out of them, [`Error::Overlap`], [`Error::Full`].
    fn submit(&self, request: Request) -> Result<TransferId, Error>;

    /// Ends a transfer early. Its event comes all the same.
    fn cancel(&self, transfer: TransferId);

    /// Sends a message of at most [`Limits::MAX_MESSAGE`] bytes. It arrives after all that was written to the peer by
    /// transfers that were done before.
    ///
    /// # Errors
    /// [`Error::UnknownPeer`], [`Error::Full`].
    fn notify(&self, peer: PeerId, message: Bytes) -> Result<(), Error>;

    /// Appends what has happened to `events`, in order; returns how much it was.
    fn poll(&self, events: &mut Vec<Event>) -> usize;

    /// Readable while there are events. Whoever finds it so may still poll nothing: another caller was first, or (TCP, while
    /// only short transfers are under way) data has come that is no event yet.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// How a connected peer is reached.
    fn lane(&self, peer: PeerId) -> Option<Lane>;

    /// Ends everything: what is under way fails with [`Error::Closed`], which can still be polled. Regions are let go.
    /// Dropping a fabric closes it.
    fn close(&self);
}
