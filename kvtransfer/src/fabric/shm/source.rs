//! Memory of a peer, as bytes are copied from it: a mapping of its file that can only be read, or a place in its process
//! that the kernel copies from. And the other side of it: what a region of this side's is to its peers.

#![expect(unsafe_code, reason = "mapping files of peers")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::copy::From;
use super::device::Remote;
use crate::Error;
use crate::memory::cuda::Export;
use crate::memory::{Kind, Region};

/// What peers are told about a region.
#[derive(Debug, Clone)]
pub(super) enum Share {
    /// This file, opened for reading.
    File(Arc<OwnedFd>),
    /// Where it lies in this process.
    Memory { base: u64, len: u64 },
    /// What names it to other processes; and it, for as long as a peer may have it mapped.
    Device { export: Export, region: Region },
}

impl Share {
    /// How peers reach `region`.
    ///
    /// # Errors
    /// If it is memory of a device that cannot be reached, or its file cannot be opened once more.
    pub(super) fn of(region: &Region) -> Result<Self, Error> {
        match (region.kind(), region.cuda()) {
            (Kind::Host, _) => {}
            (Kind::Cuda(_), Some(memory)) => {
                return Ok(Self::Device { export: memory.export()?, region: region.clone() });
            }
            // Also what is said to be CUDA's, and was not allocated or adopted through its driver.
            (kind, _) => return Err(Error::MemoryKind(kind.name())),
        }
        if let Some(arena) = region.arena() {
            return reading(arena.file()).map(|file| Self::File(Arc::new(file)));
        }
        let base = region.address(0, 0).map_or(0, |base| base.addr().get() as u64);
        Ok(Self::Memory { base, len: region.len() })
    }
}

/// The same file, but for reading only: what a peer gets cannot be mapped writable.
///
/// A process of the same user could open it anew for writing, as it could do worse to this one. Others are kept from that
/// by the file's mode, which is narrowed where the file is this user's.
fn reading(file: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reading =
        File::open(path).map_err(|error| Error::system("opening an arena's file for reading", &error))?;
    let found = reading.metadata().map_err(|error| Error::system("fstat of an arena", &error))?;
    let narrowed = found.mode() & 0o7777 & !0o022;
    if found.mode() & 0o022 != 0 && found.uid() == nix::unistd::geteuid().as_raw() {
        reading
            .set_permissions(std::fs::Permissions::from_mode(narrowed))
            .map_err(|error| Error::system("fchmod of an arena", &error))?;
    }
    Ok(reading.into())
}

/// A region of a peer.
#[derive(Debug)]
pub(super) enum Source {
    Mapped(Mapping),
    /// Copied by the kernel (CMA).
    Process {
        base: u64,
        len: u64,
    },
    Device(Remote),
}

impl Source {
    /// Where `len` bytes at `offset` are copied from, if the region has them. `number`: which source of its job it is.
    pub(super) fn at(&self, number: usize, offset: u64, len: u64) -> Option<From> {
        let end = offset.checked_add(len)?;
        match self {
            Self::Mapped(mapping) => (end <= mapping.len.get() as u64).then(|| {
                let offset = usize::try_from(offset).expect("it is less than a length in memory");
                // SAFETY: the sum lies within the mapping (checked above).
                From::Mapped(unsafe { mapping.base.add(offset) })
            }),
            Self::Process { base, len } => {
                (end <= *len).then(|| base.checked_add(offset).map(From::Process))?
            }
            Self::Device(remote) => {
                let source = u32::try_from(number).ok()?;
                (end <= remote.len()).then_some(From::Device { source, offset })
            }
        }
    }
}

/// A peer's file, mapped for reading. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: it is an address and a count, and its bytes are only copied through raw pointers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `file`.
    ///
    /// # Errors
    /// If its bytes could go away under the mapping (it is no memfd that is sealed against shrinking), it is empty, or the
    /// machine refuses.
    pub(super) fn open(file: OwnedFd) -> Result<Self, Error> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)
            .map_err(|errno| Error::System("a peer's file is no memfd", errno as i32))?;
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(Error::System("a peer's memfd is not sealed against shrinking", 0));
        }
        let file = File::from(file);
        let len = file.metadata().map_err(|error| Error::system("fstat of a peer's memfd", &error))?.len();
        let len = usize::try_from(len).ok().and_then(NonZeroUsize::new);
        let len = len.ok_or(Error::System("a peer's memfd is empty", 0))?;
        // SAFETY: no address is asked for, so no mapping of ours is replaced.
        let mapped = unsafe { mmap(None, len, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file.as_fd(), 0) };
        let base = mapped.map_err(|errno| Error::System("mapping a peer's memfd", errno as i32))?.cast();
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with these in `open`, and jobs that copy from it hold the source that it is part of.
        let unmapped = unsafe { munmap(self.base.cast(), self.len.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory::Arena;

    fn arena() -> Region {
        Arena::create("test", NonZeroUsize::new(8192).unwrap()).unwrap()
    }

    #[test]
    fn a_peer_gets_a_file_that_it_can_map_for_reading_only() {
        let region = arena();
        assert!(region.write_at(4096, b"kv"));
        let Share::File(file) = Share::of(&region).unwrap() else { panic!("an arena has a file") };
        let file = file.try_clone().unwrap();
        assert!(File::from(file.try_clone().unwrap()).write(b"x").is_err());
        // SAFETY: no address is asked for.
        let writable = unsafe {
            mmap(
                None,
                NonZeroUsize::new(8192).unwrap(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                &file,
                0,
            )
        };
        assert_eq!(writable.unwrap_err(), nix::errno::Errno::EACCES);
        let source = Source::Mapped(Mapping::open(file).unwrap());
        assert!(source.at(0, 4096, 4096).is_some() && source.at(0, 8192, 0).is_some());
        assert!(source.at(0, 4096, 4097).is_none() && source.at(0, u64::MAX, 2).is_none());
    }

    #[test]
    fn a_file_that_could_shrink_or_is_none_of_memory_is_not_mapped() {
        let loose =
            nix::sys::memfd::memfd_create(c"loose", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&loose, 4096).unwrap();
        assert!(Mapping::open(loose).unwrap_err().to_string().contains("sealed"));
        let null = File::open("/dev/null").unwrap();
        assert!(Mapping::open(null.into()).unwrap_err().to_string().contains("memfd"));
    }

    #[test]
    fn memory_without_a_file_is_told_by_its_place() {
        let keep: Arc<Vec<u8>> = Arc::new(vec![0; 64]);
        let base = NonNull::new(keep.as_ptr().cast_mut()).unwrap();
        // SAFETY: the vector lives as long as its Arc, and nobody looks into it.
        let region = unsafe { Region::foreign(base, 64, Kind::Host, keep) };
        let Share::Memory { base: told, len: 64 } = Share::of(&region).unwrap() else {
            panic!("it has no file")
        };
        assert_eq!(told, base.addr().get() as u64);
        let source = Source::Process { base: told, len: 64 };
        assert!(source.at(0, 64, 0).is_some() && source.at(0, 0, 65).is_none());
    }
}
