//! What a case tells its processes, and what they answer: one line of JSON each.

use serde::{Deserialize, Serialize};

use crate::pattern::Blocks;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Command {
    /// Opens the fabric. Answers with its metadata.
    Open {
        backend: String,
        name: String,
        epoch: u64,
        place: Option<String>,
    },
    Metadata,
    /// Makes and registers an arena, or memory that is none.
    Region {
        len: u64,
        arena: bool,
    },
    Deregister {
        region: u32,
    },
    Fill {
        region: u32,
        at: u64,
        len: u64,
        seed: u64,
    },
    /// Where the first byte is that is not what `from` is in a region filled with `seed`.
    Verify {
        region: u32,
        at: u64,
        from: u64,
        len: u64,
        seed: u64,
    },
    /// The same for blocks that were moved; `written` if from the other side's `here` to this side's `there`.
    VerifyBlocks {
        region: u32,
        blocks: Blocks,
        written: bool,
        seed: u64,
    },
    Fingerprint {
        region: u32,
        at: u64,
        len: u64,
    },
    Connect {
        metadata: Vec<u8>,
    },
    Disconnect {
        peer: u32,
    },
    Grant {
        token: u8,
        write: bool,
        spans: Vec<(u32, u64, u64)>,
        millis: u64,
    },
    Revoke {
        token: u8,
    },
    Submit(Ask),
    Cancel {
        transfer: u64,
    },
    Notify {
        peer: u32,
        message: Vec<u8>,
    },
    /// Waits until there are events, at most that long, and answers with them.
    Poll {
        millis: u64,
    },
    /// Whether `wake_fd` is readable.
    Readable,
    Lane {
        peer: u32,
    },
    /// How many descriptors, and mappings of the suite's arenas, the process has.
    Footprint,
    Close,
}

/// A transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub peer: u32,
    pub write: bool,
    pub token: u8,
    pub local: u32,
    pub remote: u32,
    pub blocks: Vec<Blocks>,
    pub notify: Option<Vec<u8>>,
    pub deadline: Option<u64>,
    pub checksum: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Nothing,
    /// What was refused: the error's code.
    Error(String),
    Bytes(Vec<u8>),
    Number(u64),
    Maybe(Option<u64>),
    Bool(bool),
    Text(Option<String>),
    Events(Vec<Seen>),
    Footprint(Footprint),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    pub descriptors: usize,
    pub mappings: usize,
}

/// An event. Errors are their codes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    Connected(u32, String),
    Done(u64),
    Failed(u64, String),
    Notified(u32, Vec<u8>),
    Lost(u32, String),
    Freed(u8),
}
