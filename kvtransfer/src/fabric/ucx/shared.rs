//! What callers and the progress thread both know, and what callers want of it.

use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;

use super::names::Names;
use crate::fabric::Request;
use crate::fabric::common::{Doorbell, Identity, Inbox, Ledger};
use crate::memory::Region;
use crate::{Error, PeerId, RegionId, Token, TransferId};

/// What to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Make a region known to UCX, and say how that went.
    Register(RegionId, Region, SyncSender<Result<(), Error>>),
    /// Forget it, and say when that is done.
    Deregister(RegionId, SyncSender<()>),
    /// Go to a peer's worker at that address.
    Connect(PeerId, Identity, Vec<u8>),
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

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ledger: Ledger,
    pub(super) inbox: Inbox<Command>,
    /// Changed only while the ledger is held too, so that whoever holds it finds both of one mind.
    names: Mutex<Names>,
}

impl Shared {
    /// # Errors
    /// If the process can have no more descriptors.
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { ledger: Ledger::new()?, inbox: Inbox::new(Doorbell::new()?), names: Mutex::default() })
    }

    /// The numbers of peers. Whoever holds the ledger as well has taken it first.
    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().expect("nothing panics while it holds the names")
    }

    /// Lets go of everything: nothing is under way any more.
    pub(super) fn clear(&self) {
        self.ledger.clear();
        *self.names() = Names::default();
    }
}
