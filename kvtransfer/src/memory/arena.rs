//! Arenas: memory in an anonymous file (memfd), which other processes can map as well.

#![expect(unsafe_code, reason = "mapping memory")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::unistd::ftruncate;

use super::{Kind, Region};
use crate::Error;

/// A mapping of a whole memfd. It is unmapped when dropped.
#[derive(Debug)]
pub struct Arena {
    file: OwnedFd,
    base: NonNull<u8>,
    len: NonZeroUsize,
}

// SAFETY: an arena is an address, a count and a file. Its bytes are reached through `Region` only.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// A new arena of `len` bytes, all zero; pages are taken from the machine as they are touched. It can be neither
    /// shrunk nor grown by whoever gets hold of its file, so that no mapping of it ever loses its ground.
    ///
    /// # Errors
    /// If the machine has no such memory.
    pub fn create(name: &str, len: NonZeroUsize) -> Result<Region, Error> {
        let name = CString::new(name).map_err(|_| Error::System("the arena's name holds a zero byte", 0))?;
        let file = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(|errno| Error::System("memfd_create", errno as i32))?;
        let size = i64::try_from(len.get()).map_err(|_| Error::System("the arena's length", 0))?;
        ftruncate(&file, size).map_err(|errno| Error::System("ftruncate of an arena", errno as i32))?;
        seal(&file)?;
        Self::map(file, len)
    }

    /// Maps an arena that somebody else has made and sealed.
    ///
    /// # Errors
    /// If it is no memfd that is sealed against shrinking, is empty, or cannot be mapped.
    pub fn open(file: OwnedFd) -> Result<Region, Error> {
        use nix::fcntl::{FcntlArg, SealFlag, fcntl};
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)
            .map_err(|errno| Error::System("the shared file is no memfd", errno as i32))?;
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(Error::System("the shared memfd is not sealed against shrinking (F_SEAL_SHRINK)", 0));
        }
        let file = File::from(file);
        let metadata = file.metadata().map_err(|error| Error::system("fstat of a shared memfd", &error))?;
        let len = usize::try_from(metadata.len()).ok().and_then(NonZeroUsize::new);
        Self::map(file.into(), len.ok_or(Error::System("the shared memfd is empty", 0))?)
    }

    fn map(file: OwnedFd, len: NonZeroUsize) -> Result<Region, Error> {
        // SAFETY: no address is asked for, so no mapping of ours is replaced.
        let mapped = unsafe {
            mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &file, 0)
        };
        let base = mapped.map_err(|errno| Error::System("mmap of an arena", errno as i32))?.cast();
        let arena = Arc::new(Self { file, base, len });
        // SAFETY: the arena unmaps itself only when dropped, and the region keeps it. It cannot be shrunk (sealed). Nobody
        // makes references to what is in it.
        Ok(unsafe { Region::foreign(base, len.get() as u64, Kind::Host, arena) })
    }

    /// The file, for another process to map.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was mapped with these in `map`, and the last region that names it is gone.
        let unmapped = unsafe { munmap(self.base.cast(), self.len.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped: {}", io::Error::last_os_error());
    }
}

fn seal(file: &OwnedFd) -> Result<(), Error> {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))
        .map_err(|errno| Error::System("sealing an arena", errno as i32))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(len: usize) -> Region {
        Arena::create("test", NonZeroUsize::new(len).unwrap()).unwrap()
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let ours = arena(8192);
        let theirs = Arena::open(ours.arena().unwrap().file().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(theirs.len(), 8192);
        assert!(ours.write_at(8190, b"kv"));
        let mut read = [0; 2];
        assert!(theirs.read_at(8190, &mut read));
        assert_eq!(&read, b"kv");
    }

    #[test]
    fn nothing_is_read_or_written_beyond_the_end() {
        let region = arena(4096);
        assert!(!region.write_at(4095, b"kv") && !region.read_at(u64::MAX, &mut [0]));
        assert!(region.write_at(4096, b""), "nothing, at the end");
        assert_eq!(region.address(0, 4097), None);
    }

    #[test]
    fn an_arena_cannot_be_shrunk_under_its_mappings() {
        let region = arena(8192);
        assert!(ftruncate(region.arena().unwrap().file(), 4096).is_err());
    }

    #[test]
    fn a_file_that_could_be_shrunk_is_not_mapped() {
        let file = memfd_create(c"loose", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&file, 4096).unwrap();
        let error = Arena::open(file).unwrap_err();
        assert!(error.to_string().contains("F_SEAL_SHRINK"), "{error}");
    }
}
