//! A transfer as it is asked for, and what all fabrics check about it before anything moves.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::Error;
use crate::ids::{PeerId, Token};
use crate::memory::Registry;
use crate::segment::{Segment, Span};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the peer to here.
    Read,
    /// From here to the peer.
    Write,
}

/// A transfer.
#[derive(Debug, Clone)]
pub struct Request {
    /// With whom.
    pub peer: PeerId,
    /// Which way.
    pub direction: Direction,
    /// What opens the peer's memory.
    pub token: Token,
    /// What goes where, in any order; may be empty.
    pub segments: Arc<[Segment]>,
    /// A message for the peer that arrives after the last byte has: its [`Notified`](super::Event::Notified).
    pub notify: Option<Bytes>,
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Whether every range's bytes are checked on arrival.
    pub checksum: bool,
}

/// What a fabric takes at most. Fabrics may take less of what the machine limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits;

impl Limits {
    /// Segments of one transfer: Llama-70B's 8K tokens, uncoalesced, are 81,920; this is 128K tokens of it.
    pub const MAX_SEGMENTS: usize = 1 << 21;
    /// Bytes of a message: what one side tells the other about a transfer is a few hundred.
    pub const MAX_MESSAGE: usize = 64 << 10;
    /// Transfers under way with all peers: far above what a worker's engines run at a time.
    pub const MAX_TRANSFERS: usize = 16 << 10;
    /// Peers at a time: every decode pod of a large fleet may meet every prefill pod.
    pub const MAX_PEERS: usize = 4096;
    /// Leases at a time, one or two for each transfer.
    pub const MAX_LEASES: usize = 64 << 10;
}

impl Request {
    /// What every fabric refuses at once: too many segments or too long a message, local ranges that are not registered,
    /// and, for a read, ranges that would be written twice.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::UnknownRegion`], [`Error::OutOfRegion`], [`Error::Overlap`].
    pub fn check(&self, registry: &Registry) -> Result<(), Error> {
        if self.segments.len() > Limits::MAX_SEGMENTS {
            return Err(Error::Full("segments of one transfer (2 Mi)"));
        }
        if self.notify.as_ref().is_some_and(|message| message.len() > Limits::MAX_MESSAGE) {
            return Err(Error::Full("bytes of a message (64 KiB)"));
        }
        for segment in &*self.segments {
            registry.address(segment.here())?;
        }
        let destinations = self.segments.iter().map(|segment| match self.direction {
            Direction::Read => segment.here(),
            Direction::Write => segment.there(),
        });
        if destinations_overlap(destinations) { Err(Error::Overlap) } else { Ok(()) }
    }
}

/// Whether a byte is named twice. Ranges in ascending order, as plans make them, cost one pass.
pub fn destinations_overlap(spans: impl Iterator<Item = Span> + Clone) -> bool {
    let ascending = |spans: &mut dyn Iterator<Item = Span>| {
        let mut before: Option<Span> = None;
        spans.filter(|span| span.len > 0).all(|span| {
            let fits = before.is_none_or(|before| {
                (before.at.region, before.end()) <= (span.at.region, Some(span.at.offset))
                    && before.end().is_some()
            });
            before = Some(span);
            fits
        })
    };
    if ascending(&mut spans.clone()) {
        return false;
    }
    let mut sorted: Vec<Span> = spans.collect();
    sorted.sort_unstable();
    !ascending(&mut sorted.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegionId;

    fn overlap(spans: &[(u32, u64, u64)]) -> bool {
        let spans: Vec<_> =
            spans.iter().map(|&(region, at, len)| Span::new(RegionId(region), at, len)).collect();
        destinations_overlap(spans.into_iter())
    }

    #[test]
    fn ranges_may_touch_but_not_share_a_byte_in_whatever_order_they_come() {
        assert!(!overlap(&[]));
        assert!(!overlap(&[(0, 0, 10), (0, 10, 10), (1, 0, 10)]));
        assert!(!overlap(&[(1, 0, 10), (0, 10, 10), (0, 0, 10)]));
        assert!(overlap(&[(0, 0, 11), (0, 10, 10)]));
        assert!(overlap(&[(0, 10, 10), (1, 0, 1), (0, 0, 11)]));
        assert!(overlap(&[(0, 0, 100), (0, 10, 1), (0, 200, 1)]));
        assert!(!overlap(&[(0, 5, 0), (0, 0, 10)]), "an empty range shares nothing");
    }
}
