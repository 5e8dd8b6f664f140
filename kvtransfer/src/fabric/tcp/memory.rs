//! Ranges of regions on their way: what is still to be read into them or sent from them. The only place of this fabric
//! that touches their bytes, besides the calls of the system in `socket`.

#![expect(unsafe_code, reason = "bytes that others write are reached by pointer")]

use std::ptr;

use super::digest::Digest;
use crate::memory::{Kind, Region, Registry};
use crate::segment::Span;
use crate::{Error, RegionId};

/// Bytes copied at once to be digested; they stay in the first cache.
const COPIED: usize = 8 << 10;

/// Ranges of host memory, in order, of which some front part is done.
///
/// Every entry is a range that the registry has checked, less what is done, of a region that `keep` keeps in place.
#[derive(Debug)]
pub(super) struct Ranges {
    vectors: Vec<libc::iovec>,
    /// Vectors before this one are done.
    next: usize,
    left: u64,
    #[expect(dead_code, reason = "it is held, not looked at")]
    keep: Vec<Region>,
}

// SAFETY: these are addresses and counts of regions, which are Send; see `Region`.
unsafe impl Send for Ranges {}

impl Ranges {
    /// # Errors
    /// [`Error::UnknownRegion`], [`Error::OutOfRegion`], [`Error::MemoryKind`].
    pub(super) fn new(registry: &Registry, spans: impl Iterator<Item = Span>) -> Result<Self, Error> {
        let (mut kept, mut keep): (Vec<RegionId>, Vec<Region>) = (Vec::new(), Vec::new());
        let mut vectors: Vec<libc::iovec> = Vec::with_capacity(spans.size_hint().0);
        let mut left = 0;
        for span in spans.filter(|span| span.len > 0) {
            let base = registry.address(span)?;
            if !kept.contains(&span.at.region) {
                let region = registry.get(span.at.region)?;
                if region.kind() != Kind::Host {
                    return Err(Error::MemoryKind(region.kind().name()));
                }
                kept.push(span.at.region);
                keep.push(region.clone());
            }
            let len = usize::try_from(span.len).map_err(|_| Error::OutOfRegion(span.at.region, 0))?;
            left += span.len;
            vectors.push(libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len });
        }
        Ok(Self { vectors, next: 0, left, keep })
    }

    /// Bytes that are not done.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// What is not done, for calls of the system.
    pub(super) fn vectors(&self) -> &[libc::iovec] {
        &self.vectors[self.next..]
    }

    /// The next `count` bytes are done.
    pub(super) fn advance(&mut self, count: u64) {
        self.walk(count, |_, _, _| {});
    }

    /// The next bytes are done, as many as `from` has or fewer if fewer are left; they are copied in from there. Returns
    /// how many.
    pub(super) fn fill(&mut self, from: &[u8]) -> usize {
        let count = (from.len() as u64).min(self.left);
        self.walk(count, |base, len, done| {
            let from = &from[done..done + len];
            // SAFETY: `base` has `len` bytes of a region that is kept (see `Ranges`); `from` is a buffer of ours, apart.
            unsafe { ptr::copy_nonoverlapping(from.as_ptr(), base, len) };
        });
        usize::try_from(count).expect("no more than a buffer has")
    }

    /// The next `count` bytes are done, and are added to `digest`.
    pub(super) fn digest(&mut self, count: u64, digest: &mut Digest) {
        self.walk(count, |base, len, _| digest_raw(base, len, digest));
    }

    /// The digest of all that is not done.
    pub(super) fn digest_all(&self) -> Digest {
        let mut digest = Digest::default();
        for vector in self.vectors() {
            digest_raw(vector.iov_base.cast(), vector.iov_len, &mut digest);
        }
        digest
    }

    fn walk(&mut self, count: u64, mut each: impl FnMut(*mut u8, usize, usize)) {
        debug_assert!(count <= self.left, "no more is done than was left");
        let mut done = 0_usize;
        let count = usize::try_from(count.min(self.left)).expect("what lies in memory has a usize");
        while done < count {
            let vector = &mut self.vectors[self.next];
            let len = vector.iov_len.min(count - done);
            let base: *mut u8 = vector.iov_base.cast();
            each(base, len, done);
            // SAFETY: `len` is at most what the vector has left of its range.
            vector.iov_base = unsafe { base.add(len) }.cast();
            vector.iov_len -= len;
            self.next += usize::from(vector.iov_len == 0);
            done += len;
        }
        self.left -= count as u64;
    }
}

/// By way of a small copy: others may write these bytes meanwhile, so no reference to them may exist.
fn digest_raw(base: *const u8, len: usize, digest: &mut Digest) {
    let mut copy = [0; COPIED];
    let mut done = 0;
    while done < len {
        let part = COPIED.min(len - done);
        // SAFETY: `base` has `len` bytes of a region that is kept (see `Ranges`, whose vectors these are).
        let from = unsafe { base.add(done) };
        // SAFETY: as above, and `copy` has room for `part`.
        unsafe { ptr::copy_nonoverlapping(from, copy.as_mut_ptr(), part) };
        digest.add(&copy[..part]);
        done += part;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::memory::Arena;

    fn registry() -> (Registry, Region) {
        let region = Arena::create("test", NonZeroUsize::new(4096).unwrap()).unwrap();
        let mut registry = Registry::default();
        registry.add(region.clone()).unwrap();
        (registry, region)
    }

    fn span(offset: u64, len: u64) -> Span {
        Span::new(RegionId(0), offset, len)
    }

    #[test]
    fn bytes_are_filled_in_across_ranges_and_only_there() {
        let (registry, region) = registry();
        let mut ranges = Ranges::new(&registry, [span(10, 2), span(5, 0), span(20, 3)].into_iter()).unwrap();
        assert_eq!((ranges.fill(b"abc"), ranges.left()), (3, 2));
        assert_eq!((ranges.fill(b"defg"), ranges.left()), (2, 0));
        let mut read = [0; 14];
        assert!(region.read_at(10, &mut read));
        assert_eq!(&read, b"ab\0\0\0\0\0\0\0\0cde\0");
    }

    #[test]
    fn a_digest_taken_in_pieces_is_that_of_the_whole() {
        let (registry, region) = registry();
        let bytes: Vec<u8> = (0..=250).cycle().take(4096).collect();
        assert!(region.write_at(0, &bytes));
        let spans = || [span(3000, 1000), span(0, 1500)].into_iter();
        let whole = Ranges::new(&registry, spans()).unwrap().digest_all();
        let (mut pieces, mut ranges) = (Digest::default(), Ranges::new(&registry, spans()).unwrap());
        for count in [1, 999, 1, 1499] {
            ranges.digest(count, &mut pieces);
        }
        assert_eq!((ranges.left(), pieces.value()), (0, whole.value()));
        let mut expected = Digest::default();
        expected.add(&bytes[3000..4000]);
        expected.add(&bytes[..1500]);
        assert_eq!(whole.value(), expected.value());
    }

    #[test]
    fn what_is_not_registered_or_out_of_bounds_has_no_ranges() {
        let (registry, _region) = registry();
        assert_eq!(
            Ranges::new(&registry, [span(4000, 97)].into_iter()).unwrap_err(),
            Error::OutOfRegion(RegionId(0), 4096)
        );
        let unknown = Span::new(RegionId(1), 0, 1);
        assert!(Ranges::new(&registry, [unknown].into_iter()).is_err());
    }
}
