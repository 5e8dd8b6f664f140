//! What callers and the progress thread both know, and what callers want of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::fabric::Request;
use crate::fabric::common::{Identity, Inbox, Ledger};
use crate::fabric::tcp::TcpFabric;
use crate::memory::Region;
use crate::{Error, PeerId, RegionId, Token, TransferId};

/// What to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Make a region known to NIXL, and say how that went.
    Register(RegionId, Region, SyncSender<Result<(), Error>>),
    /// Forget it, and say when that is done.
    Deregister(RegionId, SyncSender<()>),
    /// Prepare it as blocks of so many bytes, and say how that went.
    Blocks(RegionId, u64, SyncSender<Result<(), Error>>),
    /// Meet a peer, to which the control connection is on its way.
    Connect(PeerId, Identity),
    /// Part from a peer.
    Disconnect(PeerId),
    /// Look after a lease at its deadline.
    Watch(Token, Instant),
    /// A lease was revoked, and peers use it still.
    Revoked(Token),
    /// Begin a transfer.
    Submit(TransferId, Request),
    /// End it early.
    Cancel(TransferId),
    /// Send a message.
    Notify(PeerId, Bytes),
    /// Peers were held back, and need not be any more.
    Resume,
    /// End everything.
    Close,
}

/// What NIXL has measured of all requests that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Requests: a transfer is one or more.
    pub requests: u64,
    /// Bytes that they moved.
    pub bytes: u64,
    /// Moves that they were made of, neighbours joined.
    pub moves: u64,
    /// How long posting them took.
    pub posting: Duration,
    /// How long they took from their posting to their end, added up: requests under way at a time count each.
    pub moving: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) inbox: Inbox<Command>,
    /// Brings messages to peers, whole and in order, and tells their death.
    pub(super) control: TcpFabric,
    pub(super) measured: Mutex<Telemetry>,
    /// See [`NixlFabric::submitting`](super::NixlFabric::submitting); nanoseconds.
    pub(super) submitting: AtomicU64,
}

impl Shared {
    /// The thread was kept that long by making and posting a request.
    pub(super) fn submitted(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.submitting.fetch_add(nanos, Ordering::Relaxed);
    }
}
