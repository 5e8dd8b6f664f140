//! Every bound of the NIXL fabric, and why it is that number.

use std::time::Duration;

/// Version of the metadata and of all messages. Both sides must speak the same.
pub(super) const PROTOCOL: u16 = 1;

/// Bytes of one request to NIXL. It cannot be cancelled in a way that tells when that is over, so a cancelled transfer waits
/// for those under way; and a short transfer waits for one of those before it. A millisecond of copying.
pub(super) const REQUEST_BYTES: u64 = 4 << 20;

/// Moves of one request: making one costs NIXL some 50 ns for each, so this is 50 microseconds at most before the next
/// transfer has its turn.
pub(super) const REQUEST_MOVES: usize = 1024;

/// Requests under way to one peer: the next are posted while one waits for its last bytes.
pub(super) const WINDOW_REQUESTS: usize = 4;

/// Requests posted before the thread looks at anything else.
pub(super) const POSTS_AT_ONCE: usize = 4;

/// Blocks of a region that can be prepared. NIXL keeps some 100 bytes for each, on each side of a pair.
pub(super) const MAX_BLOCKS: u64 = 1 << 20;

/// Ranges in one message: 20 KiB. A short request slips in between the parts of a long one.
pub(super) const ASK_PART: usize = 1024;

/// Checksums in one message: 32 KiB.
pub(super) const SUM_PART: usize = 8192;

/// Messages that wait for room on the way to a peer: parts of requests are said while there are fewer.
pub(super) const UNSENT_LOW: usize = 16;

/// Bytes of messages that may be on their way to a peer or wait there to be polled. Beyond, the caller is told that it is
/// full, so that neither side's memory is.
pub(super) const MAX_UNPOLLED: usize = 16 << 20;

/// A receiver tells in steps of so many bytes what it can take again: an eighth, so that nobody stands still for want of it.
pub(super) const CREDIT_STEP: usize = MAX_UNPOLLED / 8;

/// What a message weighs besides its bytes.
pub(super) const MESSAGE_OVERHEAD: usize = 64;

/// Bytes of what opens a region, and of what says where a peer is. With UCX they take some hundred bytes, and a hundred more
/// with each further device.
pub(super) const MAX_BLOB: usize = 32 << 10;

/// Bytes hashed before the thread looks at anything else: some 50 microseconds.
pub(super) const HASH_STEP: u64 = 1 << 20;

/// Rounds in which nothing happened, while something is under way, before the thread naps between them.
pub(super) const EAGER_ROUNDS: u32 = 200;

/// Such a nap. NIXL has nothing to wait for, so whoever waits for its bytes asks again and again.
pub(super) const NAP: Duration = Duration::from_micros(50);

/// Naps before they become longer: what has not moved for a second is stuck, and its peer stands still.
pub(super) const NAPS: u32 = 20_000;

/// A long nap.
pub(super) const DOZE: Duration = Duration::from_millis(2);

/// The longest sleep. Nothing needs it to end; it bounds what a clock that jumps could do.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// After requests were let go of that had not ended, how long their peer's end is not told: NIXL cancels them, and does not
/// say when that is over. A device drops what it has begun within microseconds; this is for a busy machine.
pub(super) const LINGER: Duration = Duration::from_millis(100);

/// How long closing waits for requests to end.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(20);

/// Regions that a peer has forgotten, and whose keys, of some hundred bytes, NIXL still has. Beyond, the peer is parted from.
/// An engine registers its memory once.
pub(super) const MAX_STALE: usize = 16 << 10;

/// Proofs that the way stands, of agents that are not known yet: two that meet send them by another way than their names.
pub(super) const MAX_PROOFS: usize = 4096;
