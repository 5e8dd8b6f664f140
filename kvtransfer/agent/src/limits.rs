//! Every bound of the agent, and why it is that number.

use std::time::Duration;

/// Peers at a time: as many as a fabric takes.
pub const MAX_PEERS: usize = kvferry_transfer::fabric::Limits::MAX_PEERS;

/// Transfers that have not ended, with all peers: as many as a fabric takes.
pub const MAX_TRANSFERS: usize = kvferry_transfer::fabric::Limits::MAX_TRANSFERS;

/// Segments of all transfers that have not ended: four of the largest. At 40 bytes each they take 320 MiB.
pub const MAX_SEGMENTS: usize = 4 * kvferry_transfer::fabric::Limits::MAX_SEGMENTS;

/// Leases at a time: as many as a fabric takes.
pub const MAX_LEASES: usize = kvferry_transfer::fabric::Limits::MAX_LEASES;

/// Fabrics of an agent: a rail for each of a large host's 8 to 10 network interfaces, shm, tcp, and room for a few more.
pub const MAX_FABRICS: usize = 16;

/// Bytes of a chunk, the unit that is scheduled, retried and verified. Large enough that what the agent does about one
/// (some 20 µs) is nothing beside moving it; small enough that a short transfer waits for little, and a retry loses little.
pub const CHUNK_BYTES: u64 = 8 << 20;

/// Segments of a chunk: a chunk of 4 KiB blocks is full, and a request for their checksums takes 40 KiB.
pub const CHUNK_SEGMENTS: usize = 2048;

/// Bytes under way on a lane from which on it takes no further chunk. Four chunks keep a lane busy while the agent looks at
/// the one that has ended; what is beyond that would only delay whoever comes next.
pub const LANE_BYTES: u64 = 4 * CHUNK_BYTES;

/// Chunks under way on a lane, so that many small transfers need not wait for each other's round trip.
pub const LANE_CHUNKS: usize = 64;

/// Chunks under way with all peers: half of what a fabric takes, for a fabric's users need not be this agent alone.
pub const MAX_CHUNKS: usize = MAX_TRANSFERS / 2;

/// How often a chunk is tried, over whatever lanes. Faults that pass are over by the third; one more for luck's sake.
pub const MAX_ATTEMPTS: u8 = 4;

/// How often a lane may fail in a row while nothing else can carry a transfer, before the transfer fails.
pub const LANE_TRIES: u32 = 3;

/// How long a lane that failed once rests; it doubles with every failure in a row, up to [`LANE_REST_MOST`].
pub const LANE_REST: Duration = Duration::from_millis(100);

/// The most that a lane rests: a repaired link is used half a minute later.
pub const LANE_REST_MOST: Duration = Duration::from_secs(30);

/// How long a chunk waits before it goes over the lane again that has just failed it, or that was full; doubles with every
/// attempt.
pub const AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Retries that a report lists one by one. All are counted.
pub const MAX_LISTED: usize = 32;

/// The most that a transfer's priority may be: its share of a lane beside another of priority 1.
pub const MAX_PRIORITY: u8 = 16;

/// Bytes of a control frame from somebody who has not shown who it is: the longest greeting takes 400.
pub const MAX_GREETING: usize = 1 << 10;

/// Bytes of any other control frame. The longest is a hello: 16 fabrics with metadata of 64 KiB, and 1024 regions.
pub const MAX_FRAME: usize = 4 << 20;

/// Bytes of one fabric's metadata.
pub const MAX_METADATA: usize = 128 << 10;

/// Bytes of what the caller says about its agent (the geometry of its KV cache, say), shown to every peer.
pub const MAX_ABOUT: usize = 64 << 10;

/// Bytes of a notification: as of a fabric.
pub const MAX_MESSAGE: usize = kvferry_transfer::fabric::Limits::MAX_MESSAGE;

/// Notifications to one peer that its owner has not taken yet. Beyond it, the sender is told that it is full.
pub const UNHEARD_MESSAGES: u64 = 4096;

/// Their bytes; 64 of the longest.
pub const UNHEARD_BYTES: u64 = 4 << 20;

/// The same for all peers together, and for other events: those of 64 peers that have said all that they may. However many
/// come and go, more does not wait for an owner that takes nothing.
pub const UNHEARD_BYTES_OF_ALL: u64 = 64 * UNHEARD_BYTES;

/// Checksums that one peer may ask for at a time: its chunks under way over the lanes of four rails.
pub const MAX_CHECKS: usize = 4 * LANE_CHUNKS;

/// Bytes that a peer may want checked at a time: a chunk of its, which may be larger than ours.
pub const MAX_CHECK_BYTES: u64 = 8 * CHUNK_BYTES;

/// Bytes of control frames that wait for one peer to read them: all checksums and notifications it may be owed, and a few
/// region tables. A peer that is so far behind is given up.
pub const MAX_UNSENT: usize = 32 << 20;

/// Wishes of the owner that the agent's thread has not looked at yet and that nothing else bounds: connections and snapshots.
/// As many as there can be peers.
pub const MAX_WISHES: usize = MAX_PEERS;

/// How long somebody who is turned away or parted from may take to read why. Its socket is kept for that long.
pub const LAST_WORDS: Duration = Duration::from_secs(1);

/// Connections to here that have not shown yet who they are, and as many that are made from here. Each costs a socket and [`MAX_GREETING`] bytes.
pub const MAX_STRANGERS: usize = 512;

/// Control connections to one peer: one from each side if both connect at once, and one that is being replaced.
pub const MAX_LINKS: usize = 4;
