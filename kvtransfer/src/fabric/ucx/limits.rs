//! Every bound of the UCX fabric, and why it is that number.

use std::time::Duration;

/// Version of the metadata and of all messages. Both sides must speak the same.
pub(super) const PROTOCOL: u16 = 1;

/// How much is under way to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// Bytes of one operation. Longer segments are cut: an operation cannot be cancelled, and a short transfer waits for
    /// those before it.
    pub(super) op: u64,
    /// Bytes under way. They delay what comes after them, and must end before a cancelled transfer has.
    pub(super) window: u64,
}

impl Pace {
    /// Where a device or the kernel copies. Transports reach their full speed at a quarter of the one, and are kept busy by
    /// two of them.
    pub(super) const DIRECT: Self = Self { op: 4 << 20, window: 16 << 20 };

    /// Where UCX's messages do: a TCP segment, and as many as a socket's buffer takes. What is beyond waits in UCX, and UCX
    /// (seen up to 1.23) may crash when the peer dies while answers to its reads wait there.
    pub(super) const BY_MESSAGES: Self = Self { op: 256 << 10, window: 1 << 20 };
}

/// Operations under way to one peer. 256 blocks of 16 KiB are 4 MiB, more than 400 Gbit/s carry in a round trip.
pub(super) const WINDOW_OPS: usize = 256;

/// Operations of one transfer before the next one of the same peer has its turn; or the bytes of one operation, whichever
/// comes first.
pub(super) const TURN_OPS: usize = 32;

/// Turns given before the thread looks at its orders and its worker again: some hundred microseconds of posting.
pub(super) const TURNS_AT_ONCE: usize = 16;

/// Ranges in one message: 20 KiB. A short request slips in between the parts of a long one.
pub(super) const ASK_PART: usize = 1024;

/// Checksums in one message: 32 KiB.
pub(super) const SUM_PART: usize = 8192;

/// Parts of requests are sent while fewer bytes than this are on their way to a peer.
pub(super) const UNSENT_LOW: usize = 256 << 10;

/// Bytes of messages that may be on their way to a peer or wait there to be polled. Beyond, the caller is told that it is
/// full, so that neither side's memory is.
pub(super) const MAX_UNPOLLED: usize = 16 << 20;

/// A receiver tells in steps of so many bytes what it can take again: an eighth, so that nobody stands still for want of it.
pub(super) const CREDIT_STEP: usize = MAX_UNPOLLED / 8;

/// What a message weighs besides its bytes.
pub(super) const MESSAGE_OVERHEAD: usize = 64;

/// Messages of a peer that may be here before those that go before them. UCX keeps their order on one lane; only the parts
/// of long ones can fall behind on others, and few are long.
pub(super) const MAX_EARLY: usize = 4096;

/// Bytes hashed before the thread looks at anything else: some 50 microseconds.
pub(super) const HASH_STEP: u64 = 1 << 20;

/// Copies that UCX lets the kernel make in one call of progress. Half a megabyte each at most (`UCX_CMA_SEG_SIZE`), so one
/// call takes no longer than posting does; and looking at the other transports, which UCX does in every call, costs a small
/// block a hundredth of its copy's time rather than a tenth.
pub(super) const COPIES_AT_ONCE: usize = 8;

/// Calls of progress before the thread looks at anything else: half a window of copies, so that the next ones are posted
/// before the last are made.
pub(super) const PROGRESS_TURNS: usize = WINDOW_OPS / 2 / COPIES_AT_ONCE;

/// Bytes of a worker's address. UCX's take 80 to 500 bytes, and some 100 more with each further device.
pub(super) const MAX_ADDRESS: usize = 16 << 10;

/// Bytes of a packed key: one part for each device, of 10 to 100 bytes.
pub(super) const MAX_KEY: usize = 16 << 10;

/// The longest sleep while operations are under way: some transports of some versions do not wake a sleeper when they end.
pub(super) const DOZE: Duration = Duration::from_millis(10);

/// The longest sleep. Nothing needs it to end; it bounds what a clock that jumps could do.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// How long closing waits for operations to end. Then what they use is left to them, for good.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(20);
