//! What can go wrong, whose fault it is, and whether to try again.

use std::fmt;
use std::io;

use crate::fabric::tcp::TlsProblem;
use crate::ids::{Epoch, PeerId, RegionId};
use crate::lease::Refused;

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller asked for what cannot be.
    Caller,
    /// The peer, or the way to it.
    Peer,
    /// This machine: a library, a limit, a device.
    Machine,
}

/// Why something could not be done. Each has a stable [code](Error::code).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No region of that number is registered here.
    UnknownRegion(RegionId),
    /// A range reaches out of its region, of which this is the length in bytes.
    OutOfRegion(RegionId, u64),
    /// Segments of one transfer write to the same bytes.
    Overlap,
    /// A lease has that token and has not been freed.
    TokenInUse,
    /// The region is used by a transfer or a lease.
    RegionBusy(RegionId),
    /// No such peer is connected.
    UnknownPeer(PeerId),
    /// The peer's metadata cannot be read: what is wrong with it.
    Metadata(&'static str),
    /// The peer speaks another version of the protocol: (its, ours).
    Version(u16, u16),
    /// The peer is another life of itself: (expected, found).
    StaleEpoch(Epoch, Epoch),
    /// The peer and this side do not prove to know the same secret: what is missing.
    Unauthenticated(&'static str),
    /// The way to the peer cannot be encrypted as asked for.
    Tls(TlsProblem),
    /// The side whose memory it is has refused.
    Refused(Refused),
    /// Bytes arrived that are not those that were sent.
    Corrupt(RegionId, u64),
    /// The peer is gone, or the way to it.
    Lost(String),
    /// It was not done in time.
    Deadline,
    /// It was cancelled.
    Cancelled,
    /// As much is under way as may be; what the limit is called.
    Full(&'static str),
    /// A lane was asked for that this machine, or the peer, has not: (asked for, found).
    Lane(String, String),
    /// A kind of memory that this fabric cannot reach.
    MemoryKind(&'static str),
    /// A library is missing or of no use: what was looked for, where, and what to do.
    Library(String),
    /// A limit of this machine, and what to do.
    Limit(String),
    /// The system refused: what was tried, and its answer.
    System(&'static str, i32),
    /// The fabric is closed.
    Closed,
}

impl Error {
    /// A stable word for logs, metrics and other programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownRegion(_) => "unknown_region",
            Self::OutOfRegion(..) => "out_of_region",
            Self::Overlap => "overlap",
            Self::TokenInUse => "token_in_use",
            Self::RegionBusy(_) => "region_busy",
            Self::UnknownPeer(_) => "unknown_peer",
            Self::Metadata(_) => "bad_metadata",
            Self::Version(..) => "protocol_version",
            Self::StaleEpoch(..) => "stale_epoch",
            Self::Unauthenticated(_) => "unauthenticated",
            Self::Tls(problem) => problem.code(),
            Self::Refused(refused) => refused.code(),
            Self::Corrupt(..) => "corrupt",
            Self::Lost(_) => "peer_lost",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Full(_) => "full",
            Self::Lane(..) => "lane",
            Self::MemoryKind(_) => "memory_kind",
            Self::Library(_) => "library",
            Self::Limit(_) => "limit",
            Self::System(..) => "system",
            Self::Closed => "closed",
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::UnknownRegion(_)
            | Self::OutOfRegion(..)
            | Self::Overlap
            | Self::TokenInUse
            | Self::RegionBusy(_)
            | Self::UnknownPeer(_)
            | Self::Refused(_)
            | Self::Deadline
            | Self::Cancelled
            | Self::Closed => Fault::Caller,
            Self::Metadata(_)
            | Self::Version(..)
            | Self::StaleEpoch(..)
            | Self::Unauthenticated(_)
            | Self::Tls(_)
            | Self::Corrupt(..)
            | Self::Lost(_) => Fault::Peer,
            Self::Full(_)
            | Self::Lane(..)
            | Self::MemoryKind(_)
            | Self::Library(_)
            | Self::Limit(_)
            | Self::System(..) => Fault::Machine,
        }
    }

    /// Whether the same may work again later, or over another lane.
    pub const fn may_retry(&self) -> bool {
        matches!(self, Self::Corrupt(..) | Self::Lost(_) | Self::Full(_) | Self::Lane(..) | Self::System(..))
    }

    /// The system refused `what`.
    pub fn system(what: &'static str, error: &io::Error) -> Self {
        Self::System(what, error.raw_os_error().unwrap_or(0))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRegion(region) => write!(f, "{region} is not registered"),
            Self::OutOfRegion(region, len) => {
                write!(f, "a range reaches out of {region}, which has {len} bytes")
            }
            Self::Overlap => f.write_str("segments of one transfer write to the same bytes"),
            Self::TokenInUse => {
                f.write_str("a lease has that token and is not freed; draw another token for each lease")
            }
            Self::RegionBusy(region) => {
                write!(f, "{region} is used by a transfer or a lease; end those first")
            }
            Self::UnknownPeer(peer) => write!(f, "peer {} is not connected", peer.0),
            Self::Metadata(what) => write!(f, "the peer's metadata is of no use: {what}"),
            Self::Version(theirs, ours) => {
                write!(
                    f,
                    "the peer speaks version {theirs} of the protocol, this side {ours}; run the same release"
                )
            }
            Self::StaleEpoch(expected, found) => {
                write!(f, "the peer was started anew: epoch {found} instead of {expected}; connect again")
            }
            Self::Unauthenticated(what) => write!(f, "the peer is not authenticated: {what}"),
            Self::Tls(problem) => problem.fmt(f),
            Self::Refused(refused) => write!(f, "refused by the owner of the memory: {refused}"),
            Self::Corrupt(region, offset) => {
                write!(
                    f,
                    "bytes for {region} at {offset} arrived with a wrong checksum; nothing of them is used"
                )
            }
            Self::Lost(why) => write!(f, "the peer is lost: {why}"),
            Self::Deadline => f.write_str("not done before its deadline"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Full(limit) => write!(f, "the limit {limit} is reached; wait for something to end"),
            Self::Lane(asked, found) => {
                write!(f, "{asked} was asked for, but the way to the peer is {found}")
            }
            Self::MemoryKind(kind) => write!(f, "this fabric cannot reach {kind} memory"),
            Self::Library(what) | Self::Limit(what) => f.write_str(what),
            Self::System(what, errno) => write!(f, "{what}: {}", io::Error::from_raw_os_error(*errno)),
            Self::Closed => f.write_str("the fabric is closed"),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_fault_and_whether_to_try_again() {
        let lost = Error::Lost("connection reset".into());
        assert_eq!((lost.code(), lost.fault(), lost.may_retry()), ("peer_lost", Fault::Peer, true));
        let stale = Error::StaleEpoch(Epoch(1), Epoch(2));
        assert_eq!((stale.fault(), stale.may_retry()), (Fault::Peer, false));
        assert!(stale.to_string().contains("0000000000000002"));
        assert_eq!(Error::Refused(Refused::Expired).code(), "lease_expired");
    }
}
