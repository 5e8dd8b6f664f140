//! What is said to a process that holds one end of a fabric, as one JSON object a line, and what it answers. The same words
//! go to processes of our own, to the Python programs that drive other engines, and, relayed, to other hosts.
//!
//! `{"do":"open",...}` is answered by `{"ok":...}` or `{"error":"..."}`. A program may be asked only one thing at a time.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::work::Work;

/// What a process holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// A backend's name, or a ceiling's.
    pub backend: String,
    /// Transports for libraries that have some, comma-separated as in `UCX_TLS`.
    pub transports: Option<String>,
    /// Threads that copy or make progress.
    pub threads: usize,
    /// Streams to a peer, where there are streams.
    pub streams: usize,
    /// Whether progress never sleeps.
    pub busy: bool,
    /// Bytes of memory.
    pub bytes: u64,
    /// Where to listen; whoever starts the process knows, nobody else may say.
    pub host: Option<IpAddr>,
    /// What both ends prove to know; likewise.
    pub secret: Option<String>,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Ask {
    /// Take memory, open the fabric, register. Answered by [`Opened`].
    Open(Setup),
    /// Fill all memory with what a seed says.
    Fill {
        /// The seed.
        seed: u64,
    },
    /// What another process needs to reach this one: any JSON, for a process of the same kind.
    Offer,
    /// Meet the processes that made these. Answered by [`Connected`].
    Connect {
        /// One for each peer.
        offers: Vec<serde_json::Value>,
    },
    /// Make everything ready to do this work. Answered by [`Prepared`].
    Prepare {
        /// The work.
        work: Work,
        /// Where the first peer's share lies.
        shift: Shift,
        /// The pieces as three little-endian u64 each, for programs that do not compute patterns.
        pieces: Option<PathBuf>,
    },
    /// Do it over and over until the time has passed; 0 for one pass. Answered by [`Ran`].
    Run {
        /// Milliseconds.
        window_ms: u64,
    },
    /// Compare the destinations of the prepared work (at the driving side of a read, the driven side of a write) with
    /// what a source filled with `seed` holds. Answered by [`Verified`].
    Verify {
        /// The work.
        work: Work,
        /// What the source was filled with.
        seed: u64,
        /// Where that share lies.
        shift: Shift,
        /// As in [`Ask::Prepare`].
        pieces: Option<PathBuf>,
    },
    /// Change one byte of a source or destination, to see that it is found.
    Flip {
        /// Where.
        at: u64,
    },
    /// User and system time of the process so far, in seconds.
    Cpu,
}

/// Added to the places of a pattern: several drivers of one process must not write to the same bytes, and a driver of
/// several has a share of its own memory for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Shift {
    /// At the driving side.
    pub local: u64,
    /// At the driven side.
    pub remote: u64,
}

/// A process has its memory and its fabric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// What was loaded, and its version, if it is a library of somebody else's.
    pub library: Option<String>,
    /// Opening the fabric took so long.
    pub open_s: f64,
    /// Registering the memory took so long.
    pub register_s: f64,
}

/// A process has met its peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connected {
    /// How each is reached.
    pub lanes: Vec<String>,
    /// It took so long.
    pub seconds: f64,
}

/// What a pass of the work comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Blocks, with all peers.
    pub blocks: u64,
    /// Bytes.
    pub bytes: u64,
    /// Transfers.
    pub transfers: u64,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// From the first submission to the end of the last transfer.
    pub seconds: f64,
    /// Bytes moved.
    pub bytes: u64,
    /// Blocks moved.
    pub blocks: u64,
    /// Transfers done.
    pub transfers: u64,
    /// CPU time of the process meanwhile.
    pub cpu_s: f64,
    /// Time in calls that submit a transfer: the sum.
    pub submit_s: f64,
    /// From submitting a transfer to its end: (nanoseconds, how often).
    pub latencies: Vec<(u64, u64)>,
}

/// What a comparison has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Bytes looked at.
    pub bytes: u64,
    /// Where the first wrong one lies.
    pub first_wrong: Option<u64>,
}

/// The answer to anything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It was done.
    Ok(serde_json::Value),
    /// It was not, and why.
    Error(String),
}
