//! A region: some memory, and what keeps it there.

#![expect(unsafe_code, reason = "bytes that others write are reached by pointer")]

use std::any::Any;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

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
        let offset = usize::try_from(offset).ok()?;
        // SAFETY: the sum lies within the region (checked above), which `foreign`'s caller vouches for.
        Some(unsafe { self.base.add(offset) })
    }

    /// The arena that this is the whole of, if it is one: other processes can map it.
    pub fn arena(&self) -> Option<&Arena> {
        self.keep.downcast_ref::<Arena>()
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
