//! Every bound of the TCP fabric, and why it is that number.

use std::time::Duration;

/// Version of the metadata and of all that goes over a stream. Both sides must speak the same. 2 added encryption.
pub const PROTOCOL: u16 = 2;

/// Bytes of a chunk, the unit in which transfers take turns: large enough that its frame, its lease check and its two
/// locks cost nothing next to copying it (some 200 µs), small enough that a short transfer beside a long one waits for
/// few of them.
pub const CHUNK_BYTES: u64 = 1 << 20;

/// Ranges of a chunk: with the frame's head they fit into one call of the system (`IOV_MAX` is 1024).
pub const CHUNK_RANGES: usize = 512;

/// Bytes of a chunk that another side may ask for: another release may cut otherwise, within what is not unfair.
pub const MAX_CHUNK_BYTES: u32 = 16 << 20;

/// Ranges of a chunk that another side may ask for: what one call of the system takes, less the head.
pub const MAX_CHUNK_RANGES: u32 = 1023;

/// Chunks under way on one stream, so that many small transfers need not wait for each other's round trip.
pub const WINDOW_CHUNKS: usize = 64;

/// Requests of one stream that wait at their server. Four of our windows; a peer that sends more breaks the protocol.
pub const MAX_WAITING: usize = 256;

/// Frames that wait to be sent on one stream: answers to a full window of all kinds, with room to spare.
pub const MAX_UNSENT: usize = 4 * MAX_WAITING;

/// Unsent bytes of a stream below which the next chunk is begun. One chunk is sent while another waits: leases are
/// checked late and held briefly, and the socket never runs dry.
pub const UNSENT_LOW: u64 = CHUNK_BYTES;

/// Bytes moved for one stream, in each direction, before the next one has its turn.
pub const TURN_BYTES: u64 = 1 << 20;

/// What is read at once while waiting for a frame: the small requests fit. The begin of a chunk's data that comes along
/// is copied once, so it is kept short.
pub const FRAME_READ: usize = 2 << 10;

/// Bytes of an answer that is read together with its head, and copied, all the same. Beyond, copying takes longer than
/// another call of the system.
pub const SHORT_ANSWER: usize = 16 << 10;

/// Bytes read and thrown away at once.
pub const SCRATCH: usize = 256 << 10;

/// Messages to one peer that its owner has not polled yet: beyond it, senders are told that it is full.
pub const MAIL_MESSAGES: usize = 4096;

/// Their bytes; 256 of the longest.
pub const MAIL_BYTES: usize = 16 << 20;

/// Streams to one peer: 16 rails of 4, more than any host has.
pub const MAX_STREAMS: usize = 64;

/// Addresses of one side.
pub const MAX_ADDRESSES: usize = 16;

/// Progress threads: more than the cores that one would give to copying.
pub const MAX_THREADS: usize = 32;

/// How long a thread may stay awake with nothing to do: longer than any round trip within a site. Beyond, waking costs
/// little next to what is waited for.
pub const MAX_BUSY_POLL: Duration = Duration::from_millis(10);

/// Bytes of metadata: 1024 regions, 16 addresses and the longest name take 14 KB.
pub const MAX_METADATA: usize = 16 << 10;

/// Incoming streams that have not said yet who they are. Strangers cost a socket each, and no more of them.
pub const MAX_STRANGERS: usize = 512;

/// How long such a stream may take to say it.
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// How long after a lease's end a chunk of it may still be on its way before its stream is closed: a second suffices
/// for a chunk on 10 Mbit/s, and whoever waits for the memory shall not wait long.
pub const LEASE_GRACE: Duration = Duration::from_secs(3);

/// How often streams are looked after: silence, pings, leases that end slowly. Also how long accepting rests when the
/// process has no descriptor left.
pub const TICK: Duration = Duration::from_millis(250);

/// Silence is asked about (a ping) after this part of what is borne.
pub const PINGS_PER_SILENCE: u32 = 4;
