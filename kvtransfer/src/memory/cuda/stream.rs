//! Copies by a device's own engines, on a stream that nobody else uses. They are queued and run by themselves; an event
//! that is polled says when they are over, so that the thread neither spins for long nor sleeps in the driver.

#![expect(unsafe_code, reason = "calls into the CUDA driver")]

use std::ptr::{NonNull, null_mut};
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use kvferry_cuda_sys::{
    CU_EVENT_DISABLE_TIMING, CU_STREAM_NON_BLOCKING, CUDA_ERROR_NOT_READY, CUevent, CUstream,
};

use super::driver::Driver;
use super::{CudaDevice, CudaMemory, CudaProblem};

/// How often a thread asks right away whether copies are over: small ones are, after some microseconds.
const EAGER: u32 = 64;

/// How long it sleeps between asking afterwards: less than what a thread of the machine waits for its turn, and the
/// hundredth part of a core's time.
const NAP: Duration = Duration::from_micros(50);

/// A stream, and the event that marks its end.
#[derive(Debug)]
pub(super) struct Raw {
    stream: CUstream,
    event: CUevent,
}

// SAFETY: handles that any thread may use; whoever has this is the only one.
unsafe impl Send for Raw {}

impl Raw {
    /// A context must be current.
    fn new(driver: &Driver) -> Result<Self, CudaProblem> {
        let (mut stream, mut event) = (null_mut(), null_mut());
        // SAFETY: a context is current, and there is a place for the handle.
        let created = unsafe { driver.library.cuEventCreate(&raw mut event, CU_EVENT_DISABLE_TIMING) };
        driver.check("cuEventCreate", created)?;
        // SAFETY: as above.
        let created = unsafe { driver.library.cuStreamCreate(&raw mut stream, CU_STREAM_NON_BLOCKING) };
        if let Err(problem) = driver.check("cuStreamCreate", created) {
            // SAFETY: it was created above, and nobody has it.
            unsafe { driver.library.cuEventDestroy_v2(event) };
            return Err(problem);
        }
        Ok(Self { stream, event })
    }

    /// A context must be current.
    pub(super) fn destroy(self, driver: &Driver) {
        // SAFETY: it was created in `new`, and this was its only owner. The driver lets it end what it is at.
        unsafe { driver.library.cuStreamDestroy_v2(self.stream) };
        // SAFETY: as above.
        unsafe { driver.library.cuEventDestroy_v2(self.event) };
    }
}

/// Copies on their way. Dropping it waits for them.
#[derive(Debug)]
pub struct Copies {
    device: CudaDevice,
    /// `None` only while it is dropped.
    raw: Option<Raw>,
    pending: bool,
}

impl Copies {
    pub(super) fn new(device: &CudaDevice) -> Result<Self, CudaProblem> {
        let opened = &device.opened;
        let idle = opened.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let raw = if let Some(raw) = idle {
            raw
        } else {
            let _entered = opened.enter()?;
            Raw::new(&opened.driver)?
        };
        Ok(Self { device: device.clone(), raw: Some(raw), pending: false })
    }

    /// The device whose engines copy.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    fn stream(&self) -> CUstream {
        self.raw.as_ref().expect("it is there until it is dropped").stream
    }

    /// Copies `len` bytes of `from`, `offset` on, to the host.
    ///
    /// # Errors
    /// [`CudaProblem::Bounds`], or what the driver says. What was queued before goes on.
    ///
    /// # Safety
    /// Until [`finish`](Self::finish) has returned, or this is dropped: `to` must be good for writing so many bytes, nobody
    /// else may use them, and `from` must be kept.
    pub unsafe fn to_host(
        &mut self,
        from: &CudaMemory,
        offset: u64,
        to: NonNull<u8>,
        len: usize,
    ) -> Result<(), CudaProblem> {
        let from = from.address(offset, len as u64)?;
        let opened = &self.device.opened;
        let _entered = opened.enter()?;
        // SAFETY: a context and a stream of it; both ends are vouched for, by the caller and by the check above.
        let queued = unsafe {
            opened.driver.library.cuMemcpyDtoHAsync_v2(to.as_ptr().cast(), from, len, self.stream())
        };
        opened.driver.check("cuMemcpyDtoHAsync", queued)?;
        self.pending = true;
        Ok(())
    }

    /// Copies `len` bytes of the host to `to`, `offset` on.
    ///
    /// # Errors
    /// As [`to_host`](Self::to_host).
    ///
    /// # Safety
    /// Likewise, with `from` good for reading.
    pub unsafe fn from_host(
        &mut self,
        to: &CudaMemory,
        offset: u64,
        from: NonNull<u8>,
        len: usize,
    ) -> Result<(), CudaProblem> {
        let to = to.address(offset, len as u64)?;
        let opened = &self.device.opened;
        let _entered = opened.enter()?;
        // SAFETY: as above.
        let queued = unsafe {
            opened.driver.library.cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), len, self.stream())
        };
        opened.driver.check("cuMemcpyHtoDAsync", queued)?;
        self.pending = true;
        Ok(())
    }

    /// Copies `len` bytes between devices, or within one.
    ///
    /// # Errors
    /// As [`to_host`](Self::to_host).
    ///
    /// # Safety
    /// Both must be kept until [`finish`](Self::finish) has returned, or this is dropped.
    pub unsafe fn between(
        &mut self,
        (to, to_offset): (&CudaMemory, u64),
        (from, from_offset): (&CudaMemory, u64),
        len: u64,
    ) -> Result<(), CudaProblem> {
        let (to, from) = (to.address(to_offset, len)?, from.address(from_offset, len)?);
        let bytes = usize::try_from(len).map_err(|_| CudaProblem::Bounds(u64::MAX))?;
        let opened = &self.device.opened;
        let _entered = opened.enter()?;
        // SAFETY: as above.
        let queued = unsafe { opened.driver.library.cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream()) };
        opened.driver.check("cuMemcpyDtoDAsync", queued)?;
        self.pending = true;
        Ok(())
    }

    /// Waits until all that was queued is done.
    ///
    /// # Errors
    /// What the driver says: of the copies, too, which it tells here first. Nothing of them is under way any more then.
    pub fn finish(&mut self) -> Result<(), CudaProblem> {
        if !self.pending {
            return Ok(());
        }
        let opened = &self.device.opened;
        let _entered = opened.enter()?;
        let (driver, raw) = (&opened.driver, self.raw.as_ref().expect("it is there until it is dropped"));
        // SAFETY: a context, and a stream and an event of it.
        let recorded = unsafe { driver.library.cuEventRecord(raw.event, raw.stream) };
        let mut result = driver.check("cuEventRecord", recorded);
        let mut asked = 0;
        while result.is_ok() {
            // SAFETY: an event of this context that was recorded.
            let answer = unsafe { driver.library.cuEventQuery(raw.event) };
            if answer != CUDA_ERROR_NOT_READY {
                result = driver.check("cuEventQuery", answer);
                break;
            }
            asked += 1;
            if asked < EAGER { std::hint::spin_loop() } else { thread::sleep(NAP) }
        }
        if result.is_err() {
            // Whatever is wrong, nothing may be under way when this returns; a context that has failed does nothing more.
            // SAFETY: a stream of this context.
            drop(
                driver
                    .check("cuStreamSynchronize", unsafe { driver.library.cuStreamSynchronize(raw.stream) }),
            );
        }
        self.pending = false;
        result
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // Whoever asked how it went has called it already.
        drop(self.finish());
        let raw = self.raw.take().expect("it is dropped once");
        self.device.opened.idle.lock().unwrap_or_else(PoisonError::into_inner).push(raw);
    }
}
