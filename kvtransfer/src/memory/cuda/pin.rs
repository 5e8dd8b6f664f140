//! Host memory that devices reach by themselves. Copies from and to memory that is not pinned go through a buffer of the
//! driver's and hold the thread up for as long.

#![expect(unsafe_code, reason = "calls into the CUDA driver")]

use kvferry_cuda_sys::CU_MEMHOSTREGISTER_PORTABLE;

use super::{CudaDevice, CudaProblem};
use crate::memory::{Kind, Region};

/// A region that is pinned until this is dropped.
#[derive(Debug)]
pub struct Pinned {
    device: CudaDevice,
    region: Region,
}

impl Pinned {
    /// What is pinned.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

impl CudaDevice {
    /// Pins host memory, for this and all other devices of the process. Its pages are taken from the machine now.
    ///
    /// # Errors
    /// [`CudaProblem::NotHost`], or what the driver says.
    pub fn pin(&self, region: &Region) -> Result<Pinned, CudaProblem> {
        let base = region.address(0, region.len()).filter(|_| region.kind() == Kind::Host);
        let (base, len) = base.zip(usize::try_from(region.len()).ok()).ok_or(CudaProblem::NotHost)?;
        let driver = &self.opened.driver;
        let _entered = self.opened.enter()?;
        let flags = CU_MEMHOSTREGISTER_PORTABLE;
        // SAFETY: the region keeps its bytes mapped, and this keeps the region.
        let pinned = unsafe { driver.library.cuMemHostRegister_v2(base.as_ptr().cast(), len, flags) };
        driver.check("cuMemHostRegister", pinned)?;
        Ok(Pinned { device: self.clone(), region: region.clone() })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let (Some(base), Ok(_entered)) = (self.region.address(0, 0), self.device.opened.enter()) else {
            return;
        };
        let driver = &self.device.opened.driver;
        // SAFETY: it was registered with this address once.
        let unpinned = unsafe { driver.library.cuMemHostUnregister(base.as_ptr().cast()) };
        // It fails only where the context has, whose pins go with the process.
        drop(driver.check("cuMemHostUnregister", unpinned));
    }
}
