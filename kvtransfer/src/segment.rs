//! Where bytes lie, and which go where. Lengths and offsets are `u64` bytes: an arena can be larger than what a 32-bit
//! count can say, and a wire has no `usize`.

use crate::ids::RegionId;

/// A byte of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The region.
    pub region: RegionId,
    /// Bytes from its begin.
    pub offset: u64,
}

/// Bytes of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The first byte.
    pub at: Place,
    /// How many.
    pub len: u64,
}

impl Span {
    /// `len` bytes of `region` from `offset` on.
    pub const fn new(region: RegionId, offset: u64, len: u64) -> Self {
        Self { at: Place { region, offset }, len }
    }

    /// The byte after the last; `None` if no address is that large.
    pub const fn end(&self) -> Option<u64> {
        self.at.offset.checked_add(self.len)
    }

    /// Whether `other` lies in here wholly.
    pub fn holds(&self, other: &Self) -> bool {
        self.at.region == other.at.region
            && self.at.offset <= other.at.offset
            && matches!((self.end(), other.end()), (Some(mine), Some(theirs)) if theirs <= mine)
    }
}

/// One piece of a transfer: contiguous on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Where it lies here.
    pub local: Place,
    /// Where it lies at the peer.
    pub remote: Place,
    /// Bytes; 0 moves nothing.
    pub len: u64,
}

impl Segment {
    /// The bytes here.
    pub const fn here(&self) -> Span {
        Span { at: self.local, len: self.len }
    }

    /// The bytes at the peer.
    pub const fn there(&self) -> Span {
        Span { at: self.remote, len: self.len }
    }
}

/// Spans in their order, each made one with the next where that goes on right behind it: what is named to a peer.
pub(crate) fn joined(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut joined: Vec<Span> = Vec::with_capacity(spans.size_hint().0);
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.at.region == span.at.region && last.end() == Some(span.at.offset) => {
                // A sum that no length can be lies outside of every lease.
                last.len = last.len.saturating_add(span.len);
            }
            _ => joined.push(span),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_holds_what_lies_in_it_and_no_sum_overflows() {
        let span = Span::new(RegionId(1), 100, 50);
        assert!(span.holds(&span) && span.holds(&Span::new(RegionId(1), 149, 1)));
        assert!(span.holds(&Span::new(RegionId(1), 150, 0)), "nothing, at the end");
        assert!(!span.holds(&Span::new(RegionId(1), 149, 2)));
        assert!(!span.holds(&Span::new(RegionId(1), 99, 1)));
        assert!(!span.holds(&Span::new(RegionId(2), 100, 1)));
        assert!(!span.holds(&Span::new(RegionId(1), 120, u64::MAX)));
    }
}
