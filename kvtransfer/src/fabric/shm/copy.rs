//! The copying itself: from a mapping by this process' processor, or from another process by the kernel (CMA).
//!
//! Nobody makes references to the bytes: the peer, and whoever computes in this memory, may write them at the same time. A
//! copy of bytes that change meanwhile is a mixture, which is no harm to bytes; that it is not taken for data is the
//! business of leases.

#![expect(unsafe_code, reason = "copying through pointers")]

use std::ptr::{self, NonNull};

use nix::errno::Errno;

use super::job::Piece;
use crate::Error;

/// Where a piece comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    /// From here, in this process.
    Mapped(NonNull<u8>),
    /// From that address of the peer's process.
    Process(u64),
    /// From a device's memory: the job's source of that number, `offset` bytes on.
    Device { source: u32, offset: u64 },
}

/// Bytes that the kernel copies at a time, to be compared.
const SCRATCH: usize = 64 << 10;

/// Some pieces on their way. Those that the kernel copies are collected, since one call for many is 2.3 times as fast as a
/// call for each (16 KiB pieces).
#[derive(Debug)]
pub(super) struct Batch {
    pid: i32,
    comparing: bool,
    to: Vec<libc::iovec>,
    from: Vec<libc::iovec>,
}

impl Batch {
    /// Copies or compares pieces that lie here or in process `pid`.
    pub(super) const fn new(pid: i32, comparing: bool) -> Self {
        Self { pid, comparing, to: Vec::new(), from: Vec::new() }
    }

    /// Copies `len` bytes of `piece` from `offset` on, now or in [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are to be compared and differ, or what the kernel says.
    ///
    /// # Safety
    /// Both ends of the piece must be mapped until the batch is finished, and nobody else may copy to these bytes.
    pub(super) unsafe fn add(&mut self, piece: &Piece, offset: u64, len: u64) -> Result<(), Error> {
        let (at, count) = (size(offset), size(len));
        // SAFETY: the caller vouches for the piece, and asks for bytes of it.
        let to = unsafe { piece.to.add(at) };
        let corrupt = |within: u64| Error::Corrupt(piece.name.region, piece.name.offset + offset + within);
        match (piece.from, self.comparing) {
            (From::Mapped(from), comparing) => {
                // SAFETY: as above.
                let from = unsafe { from.add(at) };
                if comparing {
                    // SAFETY: as above.
                    let first = unsafe { first_difference(from, to, count) };
                    return first.map_or(Ok(()), |within| Err(corrupt(within as u64)));
                }
                // SAFETY: as above. The two are different mappings, so they do not overlap here.
                unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), count) };
            }
            (From::Process(from), false) => {
                self.to.push(libc::iovec { iov_base: to.as_ptr().cast(), iov_len: count });
                self.from.push(remote(from + offset, count));
            }
            (From::Device { .. }, _) => unreachable!("a device has an end of it, so `Moves` copies it"),
            (From::Process(from), true) => {
                let mut scratch = vec![0u8; SCRATCH.min(count)];
                for start in (0..count).step_by(SCRATCH) {
                    let len = SCRATCH.min(count - start);
                    let into = libc::iovec { iov_base: scratch.as_mut_ptr().cast(), iov_len: len };
                    let source = remote(from + offset + start as u64, len);
                    // SAFETY: `scratch` has at least `len` bytes.
                    unsafe { read_process(self.pid, &mut [into], &mut [source]) }?;
                    let read = NonNull::from(scratch.as_mut_slice()).cast();
                    // SAFETY: `start` is less than `count`.
                    let to = unsafe { to.add(start) };
                    // SAFETY: `start + len` is at most `count`, and `scratch` has `len` bytes.
                    let first = unsafe { first_difference(read, to, len) };
                    if let Some(within) = first {
                        return Err(corrupt((start + within) as u64));
                    }
                }
            }
        }
        Ok(())
    }

    /// Copies what is left.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        if self.to.is_empty() {
            return Ok(());
        }
        // SAFETY: `add`'s callers vouch for the destinations; the sources are for the kernel to check.
        unsafe { read_process(self.pid, &mut self.to, &mut self.from) }
    }
}

fn size(len: u64) -> usize {
    usize::try_from(len).expect("bytes of mapped memory can be counted")
}

fn remote(address: u64, len: usize) -> libc::iovec {
    libc::iovec { iov_base: ptr::without_provenance_mut(size(address)), iov_len: len }
}

/// # Safety
/// `len` bytes must be mapped at both.
pub(super) unsafe fn first_difference(one: NonNull<u8>, other: NonNull<u8>, len: usize) -> Option<usize> {
    // SAFETY: the caller vouches for both.
    let order = unsafe { libc::memcmp(one.as_ptr().cast(), other.as_ptr().cast(), len) };
    if order == 0 {
        return None;
    }
    let byte = |of: NonNull<u8>, index: usize| {
        // SAFETY: `index` is less than `len`.
        let at = unsafe { of.add(index) };
        // SAFETY: it is mapped, and a byte.
        unsafe { at.read_volatile() }
    };
    // They may be the same again by now, and still were not a moment ago.
    Some((0..len).find(|index| byte(one, *index) != byte(other, *index)).unwrap_or(0))
}

/// Copies all of `from` in process `pid` to `to`; they have the same lengths.
///
/// # Safety
/// `to` must name bytes of this process that may be written.
unsafe fn read_process(
    pid: i32,
    mut to: &mut [libc::iovec],
    mut from: &mut [libc::iovec],
) -> Result<(), Error> {
    while !to.is_empty() {
        // SAFETY: the caller vouches for `to`; the kernel checks `from`, and that this process may read the other.
        let copied = unsafe {
            libc::process_vm_readv(pid, to.as_ptr(), to.len() as u64, from.as_ptr(), from.len() as u64, 0)
        };
        let mut copied = match usize::try_from(copied) {
            Ok(0) => return Err(Error::System("process_vm_readv of a peer's memory copied nothing", 0)),
            Ok(copied) => copied,
            Err(_) => match Errno::last() {
                Errno::EINTR => continue,
                errno => return Err(refused(errno)),
            },
        };
        while let Some((first, source)) = to.first_mut().zip(from.first_mut()) {
            if copied < first.iov_len {
                first.iov_base = first.iov_base.wrapping_byte_add(copied);
                source.iov_base = source.iov_base.wrapping_byte_add(copied);
                first.iov_len -= copied;
                source.iov_len -= copied;
                break;
            }
            copied -= first.iov_len;
            to = &mut to[1..];
            from = &mut from[1..];
        }
    }
    Ok(())
}

fn refused(errno: Errno) -> Error {
    match errno {
        Errno::EPERM => Error::Limit(
            "the kernel does not let this process read the peer's memory (process_vm_readv): put the region into an arena, \
             or let it: kernel.yama.ptrace_scope=0 or CAP_SYS_PTRACE, the same user, and a peer that is dumpable"
                .into(),
        ),
        Errno::ENOSYS => Error::Limit(
            "this kernel has no process_vm_readv, or a seccomp profile hides it: put the region into an arena".into(),
        ),
        Errno::ESRCH => Error::Lost("its process has ended, or is in a process namespace that is not seen".into()),
        errno => Error::System("process_vm_readv of a peer's memory", errno as i32),
    }
}
