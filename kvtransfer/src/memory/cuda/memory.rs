//! Device memory: what a region of [`Kind::Cuda`] keeps. Dropped with the region's last clone, it gives back what it has.

#![expect(unsafe_code, reason = "calls into the CUDA driver")]

use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use kvferry_cuda_sys::CUdeviceptr;

use super::{CudaDevice, CudaProblem};
use crate::memory::{Keep, Kind, Region};

/// Memory of one device, contiguous.
pub struct CudaMemory {
    device: CudaDevice,
    address: CUdeviceptr,
    len: u64,
    hold: Hold,
}

/// How it is held, and given back.
pub(super) enum Hold {
    /// Allocated here: it is freed.
    Own,
    /// Another process' allocation that begins there: the mapping is closed.
    Mapped(CUdeviceptr),
    /// Somebody else's.
    Foreign(#[expect(dead_code, reason = "held until it is dropped")] Keep),
}

impl CudaMemory {
    /// A region of it. The address must be that of `len` bytes on `device`, held as `hold` says.
    pub(super) fn region(device: &CudaDevice, address: CUdeviceptr, len: u64, hold: Hold) -> Region {
        let kind = Kind::Cuda(device.info().device);
        let memory = Self { device: device.clone(), address, len, hold };
        let base = ptr::without_provenance_mut(usize::try_from(address).unwrap_or(0));
        let base = NonNull::new(base).expect("a driver gives no memory at address 0");
        // SAFETY: the memory stays until `memory` is dropped. It is not host memory, so the host never touches it.
        unsafe { Region::foreign(base, len, kind, Arc::new(memory)) }
    }

    /// The device it is on.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins.
    pub(super) fn base(&self) -> CUdeviceptr {
        self.address
    }

    /// Where `len` bytes at `offset` lie.
    ///
    /// # Errors
    /// [`CudaProblem::Bounds`].
    pub(super) fn address(&self, offset: u64, len: u64) -> Result<CUdeviceptr, CudaProblem> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.address + offset),
            _ => Err(CudaProblem::Bounds(self.len)),
        }
    }

    /// Copies bytes out to the host, and waits until they are there.
    ///
    /// # Errors
    /// [`CudaProblem::Bounds`], or what the driver says.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), CudaProblem> {
        let mut copies = self.device.copies()?;
        // SAFETY: `into` is ours alone until `finish` has returned: dropping `copies` waits as well.
        unsafe { copies.to_host(self, offset, NonNull::from(&mut *into).cast(), into.len()) }?;
        copies.finish()
    }

    /// Copies bytes in from the host, and waits until they are there.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), CudaProblem> {
        let mut copies = self.device.copies()?;
        // SAFETY: `from` is not written by anybody until `finish` has returned, or `copies` is dropped.
        unsafe { copies.from_host(self, offset, NonNull::from(from).cast(), from.len()) }?;
        copies.finish()
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        let Ok(_entered) = self.device.opened.enter() else { return };
        let driver = &self.device.opened.driver;
        let given_back = match self.hold {
            // SAFETY: it was allocated with this context, and nothing uses it: whatever does keeps it.
            Hold::Own => unsafe { driver.library.cuMemFree_v2(self.address) },
            // SAFETY: it was opened once in this context, and nothing uses it.
            Hold::Mapped(base) => unsafe { driver.library.cuIpcCloseMemHandle(base) },
            Hold::Foreign(_) => return,
        };
        // What a context that has failed holds is freed with the process.
        drop(driver.check("giving memory back", given_back));
    }
}

impl fmt::Debug for CudaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.hold {
            Hold::Own => "own",
            Hold::Mapped(_) => "another process'",
            Hold::Foreign(_) => "somebody else's",
        };
        write!(f, "CudaMemory({} bytes of cuda:{}, {how})", self.len, self.device.info().device.0)
    }
}
