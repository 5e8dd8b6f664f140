//! Arenas: memory in an anonymous file (memfd), which other processes can map as well.

#![expect(unsafe_code, reason = "mapping memory")]

mod options;
mod pages;
mod problem;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, munmap};

use super::{Kind, Region, limits, numa};
use crate::Error;

pub use options::{ArenaOptions, Numa, Pages};
pub use problem::{ArenaProblem, Owner};

/// A mapping of a whole memfd. It is unmapped when dropped.
#[derive(Debug)]
pub struct Arena {
    file: OwnedFd,
    base: NonNull<u8>,
    /// Bytes that are mapped: a region of it may end before its last page does.
    mapped: NonZeroUsize,
    fell_back: Option<ArenaProblem>,
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
        Ok(Self::with(&ArenaOptions::new(name, len))?)
    }

    /// Likewise, as it is asked for.
    ///
    /// # Errors
    /// If it cannot be had so.
    pub fn with(options: &ArenaOptions) -> Result<Region, ArenaProblem> {
        let needed = options.len.get() as u64;
        limits::file_size(needed)?;
        if options.prefault || options.lock {
            // A container that runs out while pages are taken is killed, not told.
            if options.pages.reserved().is_none() {
                limits::room(needed)?;
            }
            if options.lock {
                limits::memlock(needed)?;
            }
        }
        match Self::of(options, options.pages) {
            Err(problem @ (ArenaProblem::HugePages { .. } | ArenaProblem::Transparent(_)))
                if options.fallback =>
            {
                let mut arena = Self::of(options, Pages::Default)?;
                arena.fell_back = Some(problem);
                Ok(arena.region(options.len))
            }
            arena => Ok(arena?.region(options.len)),
        }
    }

    fn of(options: &ArenaOptions, pages: Pages) -> Result<Self, ArenaProblem> {
        if pages == Pages::Transparent {
            pages::transparent()?;
        }
        let (file, whole) = pages::file(&options.name, options.len.get(), pages)?;
        let whole = NonZeroUsize::new(whole).expect("it was rounded up");
        let arena =
            Self::map(file, whole).map_err(|errno| match (errno, pages::too_few(pages, whole.get())) {
                (Errno::ENOMEM, Some(too_few)) => too_few,
                (Errno::ENOMEM, None) => ArenaProblem::Refused(whole.get() as u64),
                (errno, _) => ArenaProblem::System("mmap of an arena", errno as i32),
            })?;
        // Before anything touches it: a page that is there stays where it is.
        numa::place(arena.base, arena.mapped, options.numa)?;
        if pages == Pages::Transparent {
            arena
                .advise(MmapAdvise::MADV_HUGEPAGE)
                .map_err(|errno| ArenaProblem::System("madvise of an arena (MADV_HUGEPAGE)", errno as i32))?;
        }
        if options.prefault {
            arena.populate()?;
        }
        if options.lock {
            arena.lock()?;
        }
        Ok(arena)
    }

    /// Maps an arena that somebody else has made and sealed.
    ///
    /// # Errors
    /// If it is no memfd that is sealed against shrinking, is empty, or cannot be mapped.
    pub fn open(file: OwnedFd) -> Result<Region, Error> {
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS)
            .map_err(|errno| Error::System("the shared file is no memfd", errno as i32))?;
        if !SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK) {
            return Err(Error::System("the shared memfd is not sealed against shrinking (F_SEAL_SHRINK)", 0));
        }
        let file = File::from(file);
        let metadata = file.metadata().map_err(|error| Error::system("fstat of a shared memfd", &error))?;
        let len = usize::try_from(metadata.len()).ok().and_then(NonZeroUsize::new);
        let len = len.ok_or(Error::System("the shared memfd is empty", 0))?;
        let arena = Self::map(file.into(), len);
        Ok(arena.map_err(|errno| Error::System("mmap of an arena", errno as i32))?.region(len))
    }

    fn map(file: OwnedFd, mapped: NonZeroUsize) -> Result<Self, Errno> {
        // SAFETY: no address is asked for, so no mapping of ours is replaced.
        let base = unsafe {
            mmap(None, mapped, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, &file, 0)
        }?;
        Ok(Self { file, base: base.cast(), mapped, fell_back: None })
    }

    /// The first `len` bytes of it.
    fn region(self, len: NonZeroUsize) -> Region {
        let (base, len) = (self.base, len.min(self.mapped).get() as u64);
        // SAFETY: the arena unmaps itself only when dropped, and the region keeps it. It cannot be shrunk (sealed). Nobody
        // makes references to what is in it.
        unsafe { Region::foreign(base, len, Kind::Host, Arc::new(self)) }
    }

    fn advise(&self, advice: MmapAdvise) -> Result<(), Errno> {
        // SAFETY: a mapping of ours; the advice changes no byte of it.
        unsafe { madvise(self.base.cast(), self.mapped.get(), advice) }
    }

    /// Takes all pages from the machine.
    fn populate(&self) -> Result<(), ArenaProblem> {
        let needed = self.mapped.get() as u64;
        match self.advise(MmapAdvise::MADV_POPULATE_WRITE) {
            Ok(()) => Ok(()),
            // What would be a SIGBUS where a page is touched.
            Err(Errno::EFAULT | Errno::ENOMEM) => Err(ArenaProblem::Refused(needed)),
            // Before Linux 5.14.
            Err(Errno::EINVAL) => {
                Err(ArenaProblem::System("taking pages ahead needs Linux 5.14", libc::ENOSYS))
            }
            Err(errno) => {
                Err(ArenaProblem::System("madvise of an arena (MADV_POPULATE_WRITE)", errno as i32))
            }
        }
    }

    fn lock(&self) -> Result<(), ArenaProblem> {
        let needed = self.mapped.get() as u64;
        // SAFETY: a mapping of ours; locking changes no byte of it.
        match unsafe { mlock(self.base.cast(), self.mapped.get()) } {
            Ok(()) => Ok(()),
            // What `memlock` could not see: a capability that counts in this container only.
            Err(Errno::EPERM) => Err(limits::locked_out(needed)),
            Err(Errno::ENOMEM | Errno::EAGAIN) => {
                limits::memlock(needed)?;
                Err(ArenaProblem::Refused(needed))
            }
            Err(errno) => Err(ArenaProblem::System("mlock of an arena", errno as i32)),
        }
    }

    /// The file, for another process to map.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Why it is of usual pages, if others were asked for: something to be logged.
    pub fn fell_back(&self) -> Option<&ArenaProblem> {
        self.fell_back.as_ref()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: it was mapped with these in `map`, and the last region that names it is gone.
        let unmapped = unsafe { munmap(self.base.cast(), self.mapped.get()) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;

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

    #[test]
    fn a_name_that_the_kernel_does_not_take_is_the_callers_fault() {
        for name in ["zero\0byte".to_owned(), "x".repeat(250)] {
            let problem = Arena::with(&ArenaOptions::new(&name, NonZeroUsize::MIN)).unwrap_err();
            assert_eq!((problem.code(), problem.fault()), ("arena_name", crate::Fault::Caller));
        }
    }
}
