//! What the core is asked, and what it wants done.

use std::sync::Arc;

use kvferry_transfer::Segment;
use kvferry_transfer::fabric::Direction;

use super::{Piece, Time};
use crate::{Error, Failure, Report};

/// One life of a peer, as long as it is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerNo(pub u32);

/// A way to a peer: one fabric's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneNo {
    /// Whose.
    pub peer: PeerNo,
    /// Which, as they were given when the peer was met.
    pub index: u8,
}

/// A transfer; not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferNo(pub u64);

/// One attempt at a piece of a transfer; not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkNo(pub u64);

/// What is to be moved.
#[derive(Debug, Clone)]
pub struct Work {
    /// What goes where.
    pub segments: Arc<[Segment]>,
    /// Which way.
    pub direction: Direction,
    /// When to give up.
    pub deadline: Time,
    /// Its share beside others, 1 to [`MAX_PRIORITY`](crate::limits::MAX_PRIORITY).
    pub priority: u8,
    /// Whether each chunk is checked before it counts.
    pub verify: bool,
    /// Whether the peer is told when all has arrived.
    pub notify: bool,
    /// The lanes that reach all of its memory, a bit for each.
    pub lanes: u32,
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Go to meet the peer over a lane. What comes of it: [`Core::lane_up`](super::Core::lane_up), or
    /// [`lane_down`](super::Core::lane_down).
    Reach(LaneNo),
    /// Part from the peer over a lane. [`Core::lane_down`](super::Core::lane_down) once nothing of it is under way.
    Leave(LaneNo),
    /// Begin a chunk. It ends by [`Core::moved`](super::Core::moved), once.
    Move {
        /// Its number.
        chunk: ChunkNo,
        /// Over which lane.
        lane: LaneNo,
        /// Of which transfer.
        transfer: TransferNo,
        /// Which of it.
        piece: Piece,
    },
    /// End a chunk early. It ends all the same.
    Stop(ChunkNo),
    /// Compare the chunk's bytes here and there. [`Core::checked`](super::Core::checked) says how that went.
    Check {
        /// Which.
        chunk: ChunkNo,
        /// Of which transfer.
        transfer: TransferNo,
        /// Which of it.
        piece: Piece,
    },
    /// Nobody waits for the check of that chunk any more.
    Forget(ChunkNo),
    /// Tell the peer that all of a transfer has arrived.
    Tell(TransferNo),
    /// A transfer has ended.
    End(TransferNo, Result<Report, Box<Failure>>),
    /// A slower lane carries a transfer, because a faster one failed.
    FellBack {
        /// With whom.
        peer: PeerNo,
        /// What carries it.
        to: Arc<str>,
        /// What should, and why it does not.
        from: String,
    },
    /// Nothing is left of a peer that was lost.
    Gone(PeerNo, Error),
}
