//! An open device: its context, and the memory it gives.

#![expect(unsafe_code, reason = "calls into the CUDA driver")]

use std::num::NonZeroUsize;
use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use kvferry_cuda_sys::{
    CU_MEMORYTYPE_DEVICE, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
    CUDA_ERROR_OUT_OF_MEMORY, CUDA_SUCCESS, CUcontext, CUdevice, CUdeviceptr, CUpointer_attribute,
};

use super::driver::Driver;
use super::memory::Hold;
use super::stream::Raw;
use super::{Copies, CudaMemory, CudaProblem, DeviceInfo};
use crate::memory::{Device, Keep, Region};

/// A device that this process uses. Clones are the same; its context is let go of with the last of them and of its memory.
#[derive(Debug, Clone)]
pub struct CudaDevice {
    pub(super) opened: Arc<Opened>,
}

#[derive(Debug)]
pub(super) struct Opened {
    pub(super) driver: Arc<Driver>,
    pub(super) number: Device,
    info: DeviceInfo,
    handle: CUdevice,
    context: CUcontext,
    /// Streams that nobody uses: making one takes longer than a small copy.
    pub(super) idle: Mutex<Vec<Raw>>,
}

// SAFETY: a primary context, and streams of it, may be used by any thread that makes it current, which `enter` does. The
// rest is Send and Sync by itself.
unsafe impl Send for Opened {}
// SAFETY: as above.
unsafe impl Sync for Opened {}

impl Opened {
    pub(super) fn new(driver: &Arc<Driver>, info: DeviceInfo, handle: CUdevice) -> Result<Self, CudaProblem> {
        let mut context = null_mut();
        // SAFETY: a device of this driver, and a place for its context.
        let retained = unsafe { driver.library.cuDevicePrimaryCtxRetain(&raw mut context, handle) };
        match driver.check("cuDevicePrimaryCtxRetain", retained) {
            Ok(()) => {}
            Err(CudaProblem::Call(told)) if told.code == CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(CudaProblem::OutOfMemory { device: info.device, needed: CONTEXT, free: 0 });
            }
            Err(other) => return Err(other),
        }
        let number = info.device;
        Ok(Self { driver: Arc::clone(driver), number, info, handle, context, idle: Mutex::default() })
    }

    /// Makes the device's context this thread's until what comes back is dropped.
    pub(super) fn enter(&self) -> Result<Entered<'_>, CudaProblem> {
        // SAFETY: the context is retained for as long as this is.
        let pushed = unsafe { self.driver.library.cuCtxPushCurrent_v2(self.context) };
        self.driver.check("cuCtxPushCurrent", pushed)?;
        Ok(Entered { driver: &self.driver })
    }
}

/// Bytes that a context takes, about: for the message when a device has not even these.
const CONTEXT: u64 = 512 << 20;

impl Drop for Opened {
    fn drop(&mut self) {
        let idle = std::mem::take(self.idle.get_mut().unwrap_or_else(PoisonError::into_inner));
        if let Ok(_entered) = self.enter() {
            for stream in idle {
                stream.destroy(&self.driver);
            }
        }
        // SAFETY: it was retained once, and nothing of it is in use: whatever is keeps this.
        let released = unsafe { self.driver.library.cuDevicePrimaryCtxRelease_v2(self.handle) };
        // A driver that is ending with its process does not take it any more, nor need to.
        drop(self.driver.check("cuDevicePrimaryCtxRelease", released));
    }
}

/// A thread's stay in a device's context.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    driver: &'a Driver,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut context = null_mut();
        // SAFETY: a place for the context that this thread has pushed.
        let popped = unsafe { self.driver.library.cuCtxPopCurrent_v2(&raw mut context) };
        debug_assert_eq!(popped, CUDA_SUCCESS, "what was pushed can be popped");
    }
}

impl CudaDevice {
    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        &self.opened.info
    }

    /// The node of host memory that is nearest to it, if the machine says.
    pub fn numa_node(&self) -> Option<u32> {
        crate::memory::numa::node_of_pci(&self.opened.info.bus)
    }

    /// Makes the device's context this thread's for good: for threads of libraries that find it there (UCX).
    ///
    /// # Errors
    /// What the driver says.
    pub fn settle(&self) -> Result<(), CudaProblem> {
        // SAFETY: the context is retained for as long as this is; a thread that outlives it has a stale one, which each call
        // of the driver's checks.
        let set = unsafe { self.opened.driver.library.cuCtxSetCurrent(self.opened.context) };
        self.opened.driver.check("cuCtxSetCurrent", set)
    }

    /// Memory of the device, `len` bytes. It holds whatever it held before. It is freed with its last clone.
    ///
    /// # Errors
    /// [`CudaProblem::OutOfMemory`], or what the driver says.
    pub fn allocate(&self, len: NonZeroUsize) -> Result<Region, CudaProblem> {
        let cuda = &self.opened.driver.library;
        let out_of_memory =
            |free| CudaProblem::OutOfMemory { device: self.opened.number, needed: len.get() as u64, free };
        let entered = self.opened.enter()?;
        let mut address: CUdeviceptr = 0;
        // SAFETY: a context is current, and there is a place for the address.
        let allocated = unsafe { cuda.cuMemAlloc_v2(&raw mut address, len.get()) };
        if allocated == CUDA_ERROR_OUT_OF_MEMORY {
            let (mut free, mut total) = (0usize, 0usize);
            // SAFETY: a context is current, and there are places for two numbers.
            let known = unsafe { cuda.cuMemGetInfo_v2(&raw mut free, &raw mut total) } == CUDA_SUCCESS;
            return Err(out_of_memory(if known { free as u64 } else { 0 }));
        }
        self.opened.driver.check("cuMemAlloc", allocated)?;
        drop(entered);
        Ok(CudaMemory::region(self, address, len.get() as u64, Hold::Own))
    }

    /// Device memory that somebody else owns: an engine's KV cache.
    ///
    /// # Errors
    /// [`CudaProblem::Bounds`] if the allocation that `base` lies in ends before, [`CudaProblem::UnknownDevice`] if it is on
    /// another device, or what the driver says.
    ///
    /// # Safety
    /// For as long as `keep` is not dropped, the `len` bytes from `base` on must stay allocated.
    pub unsafe fn adopt(&self, base: NonNull<u8>, len: u64, keep: Keep) -> Result<Region, CudaProblem> {
        let address = base.addr().get() as CUdeviceptr;
        let _entered = self.opened.enter()?;
        let kind = self.attribute(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)?;
        let ordinal = self.attribute(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address)?;
        if kind != CU_MEMORYTYPE_DEVICE || ordinal != self.opened.number.0 {
            let count = u32::try_from(self.opened.driver.devices.len()).unwrap_or(u32::MAX);
            return Err(CudaProblem::UnknownDevice(Device(ordinal), count));
        }
        let (start, size) = self.range(address)?;
        let left = (start + size).saturating_sub(address);
        if len > left {
            return Err(CudaProblem::Bounds(left));
        }
        Ok(CudaMemory::region(self, address, len, Hold::Foreign(keep)))
    }

    /// A stream of this device for copies, nobody else's meanwhile.
    ///
    /// # Errors
    /// What the driver says.
    pub fn copies(&self) -> Result<Copies, CudaProblem> {
        Copies::new(self)
    }

    /// A number that is known of an address. A context must be current.
    pub(super) fn attribute(
        &self,
        which: CUpointer_attribute,
        address: CUdeviceptr,
    ) -> Result<u32, CudaProblem> {
        let (mut value, driver) = (0u32, &self.opened.driver);
        // SAFETY: those that are asked for are numbers of 32 bits, for which there is a place.
        let asked = unsafe { driver.library.cuPointerGetAttribute((&raw mut value).cast(), which, address) };
        driver.check("cuPointerGetAttribute", asked)?;
        Ok(value)
    }

    /// Where the allocation that an address lies in begins, and its bytes. A context must be current.
    pub(super) fn range(&self, address: CUdeviceptr) -> Result<(CUdeviceptr, u64), CudaProblem> {
        let (mut base, mut size, driver) = (0, 0, &self.opened.driver);
        // SAFETY: places for an address and a size; any address may be asked about.
        let asked = unsafe { driver.library.cuMemGetAddressRange_v2(&raw mut base, &raw mut size, address) };
        driver.check("cuMemGetAddressRange", asked)?;
        Ok((base, size as u64))
    }
}
