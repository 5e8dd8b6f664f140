//! Where bytes lie and which go where, in plain numbers: whoever moves them has types of his own.

/// A byte of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The region, as its owner numbers it.
    pub region: u32,
    /// Bytes from the region's begin.
    pub offset: u64,
}

impl Place {
    /// The byte `bytes` further on.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self { region: self.region, offset: self.offset + bytes }
    }
}

/// One run of bytes, contiguous on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Move {
    /// Its first byte at the source.
    pub from: Place,
    /// Its first byte at the destination.
    pub to: Place,
    /// Bytes, never 0.
    pub len: u64,
}

impl Move {
    /// Whether `next` goes on where this ends, on both sides.
    pub(crate) fn joins(&self, next: &Self) -> bool {
        self.to.plus(self.len) == next.to && self.from.plus(self.len) == next.from
    }

    /// Whether `next` begins at or after this one's end, at the destination.
    pub(crate) fn precedes(&self, next: &Self) -> bool {
        self.to.plus(self.len) <= next.to
    }
}
