//! A region: some memory, and what keeps it there.

#![expect(unsafe_code, reason = "bytes that others write are reached by pointer")]

use std::any::Any;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use super::cuda::CudaMemory;
use super::{Arena, Kind};

/// What keeps a region's memory where it is: dropped with the region's last clone.
pub type Keep = Arc<dyn Any + Send + Sync>;

/// Memory of one kind, contiguous. Clones name the same bytes.
#[derive(Clone)]
pub struct Region {
    base: NonNull<u8>,
    len: u64,
    kind: Kind,
    keep: Keep,
}

// SAFETY: a region is an address and a count. Its bytes are only ever copied through raw pointers or named to the kernel,
// never referenced, and `keep` is Send and Sync by its type.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Memory that somebody else owns.
    ///
    /// # Safety
    /// For as long as `keep` is not dropped, the `len` bytes from `base` on must stay mapped (for [`Kind::Host`]: readable
    /// and writable by this process), and nobody may hold Rust references to them.
    pub unsafe fn foreign(base: NonNull<u8>, len: u64, kind: Kind, keep: Keep) -> Self {
        Self { base, len, kind, keep }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What memory it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address of the byte at `offset`, if `len` bytes from there on lie in the region.
    pub fn address(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // Device memory is no allocation that Rust knows of, so this is plain arithmetic: it cannot wrap, since the sum lies
        // within the region.
        NonNull::new(self.base.as_ptr().wrapping_add(usize::try_from(offset).ok()?))
    }

    /// The arena that this is the whole of, if it is one: other processes can map it.
    pub fn arena(&self) -> Option<&Arena> {
        self.keep.downcast_ref::<Arena>()
    }

    /// The device memory that this is, if it is of [`Kind::Cuda`] and was allocated, adopted or imported here.
    pub fn cuda(&self) -> Option<&CudaMemory> {
        self.keep.downcast_ref::<CudaMemory>()
    }

    /// What keeps it.
    #[cfg(test)]
    pub(crate) fn keep(&self) -> &Keep {
        &self.keep
    }

    /// Copies bytes out. `false`, and nothing is copied, if they do not lie in the region or it is not host memory.
    #[must_use]
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> bool {
        let Some(from) = self.host(offset, into.len()) else { return false };
        // SAFETY: `host` has checked that as many bytes are mapped there; `into` is ours alone. Others may write the
        // source meanwhile, and then these bytes are a mixture, which no type is made of but u8.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        true
    }

    /// Copies bytes in. `false`, and nothing is copied, if they do not fit or it is not host memory.
    #[must_use]
    pub fn write_at(&self, offset: u64, from: &[u8]) -> bool {
        let Some(to) = self.host(offset, from.len()) else { return false };
        // SAFETY: as in `read_at`, the other way round.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        true
    }

    fn host(&self, offset: u64, len: usize) -> Option<NonNull<u8>> {
        (self.kind == Kind::Host).then(|| self.address(offset, u64::try_from(len).ok()?)).flatten()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes of {} memory at {:p})", self.len, self.kind, self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Device;

    /// Some bytes, freed when dropped.
    struct Bytes(NonNull<[u8]>);

    // SAFETY: it is the only owner of plain bytes.
    unsafe impl Send for Bytes {}
    // SAFETY: as above.
    unsafe impl Sync for Bytes {}

    impl Drop for Bytes {
        fn drop(&mut self) {
            // SAFETY: they were leaked in `region`, and nobody else frees them.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }

    /// Plain memory, so that miri can look at it.
    fn region(kind: Kind, len: usize) -> Region {
        let bytes = NonNull::from(Box::leak(vec![0; len].into_boxed_slice()));
        // SAFETY: the bytes live until the keep is dropped, and nobody has references to them.
        unsafe { Region::foreign(bytes.cast(), len as u64, kind, Arc::new(Bytes(bytes))) }
    }

    #[test]
    fn addresses_are_given_within_the_region_and_nowhere_else() {
        let region = region(Kind::Host, 100);
        assert_eq!(region.address(100, 0).unwrap().addr().get() - region.base.addr().get(), 100);
        assert!(region.address(99, 1).is_some() && region.address(0, 100).is_some());
        for (offset, len) in [(100, 1), (0, 101), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
            assert_eq!(region.address(offset, len), None);
        }
    }

    #[test]
    fn what_is_written_is_read_and_clones_name_the_same_bytes() {
        let region = region(Kind::Host, 64);
        let clone = region.clone();
        assert!(region.write_at(60, b"kv"));
        drop(region);
        let mut read = [0; 3];
        assert!(clone.read_at(59, &mut read));
        assert_eq!(&read, b"\0kv");
        assert!(!clone.write_at(63, b"kv") && !clone.read_at(62, &mut [0; 3]));
    }

    #[test]
    fn bytes_of_a_device_are_not_touched_by_the_host() {
        let region = region(Kind::Cuda(Device(0)), 64);
        assert!(!region.read_at(0, &mut [0]) && !region.write_at(0, &[1]));
        assert!(region.address(0, 64).is_some(), "but named");
        assert!(region.cuda().is_none() && region.arena().is_none());
    }
}
