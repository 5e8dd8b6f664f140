//! What can be set about the shm fabric, and what is usual.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::{AgentName, Epoch};

/// Where peers knock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A name in no file system, of this life only. Processes of one network namespace reach it: those of one pod, or of one
    /// machine without containers.
    Abstract,
    /// A socket file, for pods that share a volume but no network namespace. What an earlier life left there is replaced.
    Path(PathBuf),
}

/// The most threads that copy: more than the memory channels of any machine can feed.
pub const MAX_THREADS: usize = 32;

/// How a shm fabric is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// What this agent is called.
    pub name: AgentName,
    /// Which life of it this is.
    pub epoch: Epoch,
    /// Where peers knock.
    pub listen: Listen,
    /// Threads that copy. One core fills about half of a memory controller, so 1 is usual, and 2 to 4 where blocks are
    /// large, memory has several channels and cores are free. At most [`MAX_THREADS`].
    pub threads: NonZeroUsize,
    /// Users, besides this process' own, whose processes may connect. Their memory is only ever mapped for reading, but they
    /// see every registered region: the lease is then a promise of theirs, not a wall.
    pub uids: Vec<u32>,
    /// How long a peer may take to say who it is, or to answer that it will.
    pub meet_within: Duration,
    /// How long a peer may take to stop what was cancelled or revoked. It takes microseconds, unless the peer is stopped or
    /// starved; then it is parted from, since its bytes cannot be let go of otherwise.
    pub stop_within: Duration,
}

impl Options {
    /// What is usual.
    pub const fn new(name: AgentName, epoch: Epoch) -> Self {
        Self {
            name,
            epoch,
            listen: Listen::Abstract,
            threads: NonZeroUsize::MIN,
            uids: Vec::new(),
            meet_within: Duration::from_secs(10),
            stop_within: Duration::from_secs(5),
        }
    }
}
