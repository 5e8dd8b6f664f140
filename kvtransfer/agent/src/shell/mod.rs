//! The agent's thread: sockets, fabrics and time around the [core](crate::core). It sleeps until one of them has something,
//! tells the core, and does what the core wants done. Nothing here waits for anything else.
//!
//! - [`run`]: the loop; [`wait`]: what it waits for; [`upkeep`]: silence, figures, and its end;
//! - [`meet`], [`link`], [`stream`]: control connections, from the first byte to the last;
//! - [`peers`]: what peers say, and what follows from it;
//! - [`lanes`]: the core's lanes are the fabrics' peers;
//! - [`moves`]: the core's chunks are the fabrics' transfers;
//! - [`checks`]: checksums, ours and the peers'.

mod checks;
mod lanes;
mod link;
mod meet;
mod moves;
mod peers;
mod run;
mod stream;
mod upkeep;
mod wait;

use std::sync::Arc;

use bytes::Bytes;
use kvferry_transfer::fabric::Direction;
use kvferry_transfer::{AgentName, Epoch, Segment, Token, Use};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::Error;
use crate::core::{ChunkNo, PeerNo};
use crate::events::{Of, Peer};
use crate::options::TransferOptions;
use crate::protocol::{Frame, Role};
use crate::roster::{Identity, LinkNo};
use crate::snapshot::Snapshot;
use crate::transfer::Answer;

pub(crate) use run::start;

use meet::Meeting;

/// Who asked for a connection, and waits for it.
pub(crate) type Wanted = oneshot::Sender<Result<Peer, Error>>;

/// What the agent's owner wants.
#[derive(Debug)]
pub(crate) enum Order {
    Connect {
        address: String,
        expected: Option<(AgentName, Option<Epoch>)>,
        answer: Wanted,
    },
    Disconnect(PeerNo),
    Begin(Box<Ask>, Answer),
    Cancel(u64),
    Notify(PeerNo, Bytes),
    /// Regions have changed; peers must know.
    Tables,
    /// Messages of that peer were taken: how many, and their weight.
    Heard(PeerNo, u64, u64),
    Snapshot(oneshot::Sender<Snapshot>),
    Close,
}

/// A transfer that is wanted.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) ticket: u64,
    pub(crate) peer: Arc<Of>,
    pub(crate) direction: Direction,
    pub(crate) token: Token,
    pub(crate) segments: Arc<[Segment]>,
    pub(crate) options: TransferOptions,
}

/// What follows for somebody who has shown who it is.
#[derive(Debug)]
enum Arrival {
    /// Say this session, and the hello.
    Welcome(u64, Bytes),
    /// It is a peer already, and there are connections enough.
    Known(Peer),
}

/// What the thread's tasks have to say.
#[derive(Debug)]
enum Mail {
    /// Somebody has shown who it is: which session to say, and the hello.
    Arrived(Identity, Role, oneshot::Sender<Result<Arrival, Error>>),
    /// Whoever was called is a peer already.
    Again(Peer, Option<Wanted>),
    /// A connection is complete.
    Met(Box<Meeting>, Option<Wanted>),
    /// A connection did not come about; to whom this session was said, if it got so far.
    NotMet(Error, Option<(Identity, u64)>, Option<Wanted>),
    /// A peer says something, or its connection has ended; and the room that it takes while it waits.
    Said(LinkNo, Result<Frame, Error>, Option<OwnedSemaphorePermit>),
    /// Checksums of this side's bytes, for a chunk of this side.
    Summed(ChunkNo, Option<Vec<u32>>),
    /// The same, for a peer that has asked.
    SummedFor(LinkNo, u64, Use, Option<Vec<u32>>),
}

/// Mail that may wait. Tasks wait with what is beyond: a peer that says more than this thread can hear is not heard faster.
const MAX_MAIL: usize = 1024;

/// KiB of what peers have said that may wait: eight of the longest frames. However many peers flood, no more is read.
const MAX_MAIL_KIB: usize = 8 * (crate::limits::MAX_FRAME >> 10);
