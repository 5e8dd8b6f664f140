//! Ranges and checksums, many in one message: as bytes, and read from bytes that a peer has sent.

use super::{Reader, Writer};
use crate::RegionId;
use crate::segment::Span;

/// Ranges of a peer's regions, as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges<'a>(&'a [u8]);

impl<'a> Ranges<'a> {
    /// Bytes of each.
    pub(crate) const EACH: usize = 20;

    /// As bytes, which [`Ranges::of`] takes.
    pub(crate) fn encode(spans: &[Span]) -> Vec<u8> {
        let mut out = Vec::with_capacity(spans.len() * Self::EACH);
        for span in spans {
            out.put_u32(span.at.region.0);
            out.put_u64(span.at.offset);
            out.put_u64(span.len);
        }
        out
    }

    /// Of what [`Ranges::encode`] has made.
    pub(crate) const fn of(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// Takes all that is left; `None` if it is no whole number of ranges, or more than `most`.
    pub(crate) fn read(reader: &mut Reader<'a>, most: usize) -> Option<Self> {
        let bytes = reader.rest();
        let fits = bytes.len().is_multiple_of(Self::EACH) && bytes.len() / Self::EACH <= most;
        fits.then_some(Self(bytes))
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len() / Self::EACH
    }

    /// The bytes that they are in.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Each, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> + use<'a> {
        self.0.chunks_exact(Self::EACH).filter_map(|bytes| {
            let mut reader = Reader::new(bytes);
            Some(Span::new(RegionId(reader.u32()?), reader.u64()?, reader.u64()?))
        })
    }
}

/// Checksums, as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sums<'a>(&'a [u8]);

impl<'a> Sums<'a> {
    const EACH: usize = 4;

    /// As bytes, which [`Sums::of`] takes.
    pub(crate) fn encode(sums: &[u32]) -> Vec<u8> {
        sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
    }

    /// Of what [`Sums::encode`] has made.
    pub(crate) const fn of(encoded: &'a [u8]) -> Self {
        Self(encoded)
    }

    /// Takes all that is left; `None` if it is no whole number of sums, or more than `most`.
    pub(crate) fn read(reader: &mut Reader<'a>, most: usize) -> Option<Self> {
        let bytes = reader.rest();
        let fits = bytes.len().is_multiple_of(Self::EACH) && bytes.len() / Self::EACH <= most;
        fits.then_some(Self(bytes))
    }

    /// The bytes that they are in.
    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Each, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.0.chunks_exact(Self::EACH).filter_map(|bytes| Reader::new(bytes).u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_neither_halves_nor_too_many_are() {
        let spans = [Span::new(RegionId(1), 2, 3), Span::new(RegionId(4), u64::MAX, u64::MAX)];
        let bytes = Ranges::encode(&spans);
        let read = |bytes| Ranges::read(&mut Reader::new(bytes), 2);
        assert_eq!(read(&bytes).unwrap().iter().collect::<Vec<_>>(), spans);
        assert_eq!((read(&bytes[..39]), Ranges::read(&mut Reader::new(&bytes), 1)), (None, None));
        let bytes = Sums::encode(&[1, u32::MAX]);
        let read = |bytes| Sums::read(&mut Reader::new(bytes), 2);
        assert_eq!(read(&bytes).unwrap().iter().collect::<Vec<_>>(), [1, u32::MAX]);
        assert_eq!((read(&bytes[..7]), Sums::read(&mut Reader::new(&bytes), 1)), (None, None));
    }
}
