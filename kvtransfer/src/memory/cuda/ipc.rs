//! Device memory of one process in another (CUDA IPC): 100 bytes name it, and whoever has them can map all of the
//! allocation they are of. So they go to peers that were let in only, as a memfd does.

#![expect(unsafe_code, reason = "calls into the CUDA driver")]

use std::ffi::c_char;
use std::fmt::Write;

use kvferry_cuda_sys::{
    CU_IPC_HANDLE_SIZE, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE,
    CUDA_ERROR_INVALID_CONTEXT, CUDA_ERROR_INVALID_HANDLE, CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_MAP_FAILED,
    CUDA_ERROR_NOT_PERMITTED, CUDA_ERROR_NOT_SUPPORTED, CUDA_ERROR_OPERATING_SYSTEM, CUdeviceptr,
    CUipcMemHandle,
};

use super::memory::Hold;
use super::{Cuda, CudaDevice, CudaMemory, CudaProblem};
use crate::memory::Region;

/// How what is sent begins, in this version.
const MAGIC: [u8; 4] = *b"KVc1";

/// What names a region of device memory to another process of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    /// The device: processes may count theirs in different orders.
    pub uuid: [u8; 16],
    /// Where the region begins in its allocation, in bytes. The handle is of the whole.
    pub offset: u64,
    /// Bytes of the region.
    pub len: u64,
    /// The driver's handle.
    pub handle: [u8; CU_IPC_HANDLE_SIZE],
}

impl Export {
    /// Bytes of it.
    pub const LEN: usize = MAGIC.len() + 16 + 8 + 8 + CU_IPC_HANDLE_SIZE;

    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&MAGIC[..], &self.uuid, &self.offset.to_le_bytes(), &self.len.to_le_bytes(), &self.handle].concat()
    }

    /// From what was sent.
    ///
    /// # Errors
    /// [`CudaProblem::BadExport`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CudaProblem> {
        let bytes: &[u8; Self::LEN] =
            bytes.try_into().map_err(|_| CudaProblem::BadExport("it is of another length"))?;
        let (magic, rest) = bytes.split_first_chunk().expect("it is longer");
        let (uuid, rest) = rest.split_first_chunk().expect("it is longer");
        let (offset, rest) = rest.split_first_chunk().expect("it is longer");
        let (len, handle) = rest.split_first_chunk().expect("it is longer");
        let (offset, len) = (u64::from_le_bytes(*offset), u64::from_le_bytes(*len));
        if *magic != MAGIC {
            return Err(CudaProblem::BadExport("it is of another version"));
        }
        if offset.checked_add(len).is_none() {
            return Err(CudaProblem::BadExport("it ends beyond the last address"));
        }
        let handle = handle.try_into().expect("a handle's bytes are left");
        Ok(Self { uuid: *uuid, offset, len, handle })
    }
}

impl CudaMemory {
    /// What another process of this machine imports it by. The memory must be kept until that has let go.
    ///
    /// # Errors
    /// [`CudaProblem::NotShareable`], or what the driver says.
    pub fn export(&self) -> Result<Export, CudaProblem> {
        let (device, driver) = (self.device(), &self.device().opened.driver);
        let _entered = device.opened.enter()?;
        // Drivers before 11.1 do not know the question; then the next call answers it.
        if let Ok(0) = device.attribute(CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE, self.base()) {
            return Err(CudaProblem::NotShareable);
        }
        let (start, _) = device.range(self.base())?;
        let mut handle = CUipcMemHandle { reserved: [0; CU_IPC_HANDLE_SIZE] };
        // SAFETY: memory that is allocated, and a place for its handle.
        let named = unsafe { driver.library.cuIpcGetMemHandle(&raw mut handle, start) };
        match driver.check("cuIpcGetMemHandle", named) {
            Ok(()) => {}
            Err(CudaProblem::Call(told)) if told.code == CUDA_ERROR_INVALID_VALUE => {
                return Err(CudaProblem::NotShareable);
            }
            Err(CudaProblem::Call(told)) if is_denied(told.code) => return Err(CudaProblem::Denied(told)),
            Err(other) => return Err(other),
        }
        Ok(Export {
            uuid: device.info().uuid,
            offset: self.base() - start,
            len: self.len(),
            handle: handle.reserved.map(|byte| byte.to_ne_bytes()[0]),
        })
    }
}

impl Cuda {
    /// Maps what another process exported. The mapping is closed with the region's last clone.
    ///
    /// # Errors
    /// [`CudaProblem::NotVisible`], [`OwnExport`](CudaProblem::OwnExport), [`Denied`](CudaProblem::Denied),
    /// [`Gone`](CudaProblem::Gone), [`Shorter`](CudaProblem::Shorter), or what the driver says.
    pub fn import(&self, export: &Export) -> Result<Region, CudaProblem> {
        let known = self.devices().find(|info| info.uuid == export.uuid).map(|info| info.device);
        let device = self.device(known.ok_or_else(|| CudaProblem::NotVisible(named(&export.uuid)))?)?;
        let entered = device.opened.enter()?;
        let handle = CUipcMemHandle { reserved: export.handle.map(|byte| c_char::from_ne_bytes([byte])) };
        let mut base: CUdeviceptr = 0;
        let driver = &device.opened.driver;
        let flags = CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS;
        // SAFETY: a context is current, and there is a place for the address. The handle is for the driver to check.
        let opened = unsafe { driver.library.cuIpcOpenMemHandle_v2(&raw mut base, handle, flags) };
        driver.check("cuIpcOpenMemHandle", opened).map_err(|problem| match problem {
            CudaProblem::Call(told) => match told.code {
                CUDA_ERROR_INVALID_CONTEXT => CudaProblem::OwnExport,
                CUDA_ERROR_INVALID_HANDLE | CUDA_ERROR_INVALID_VALUE => CudaProblem::Gone(told),
                code if is_denied(code) => CudaProblem::Denied(told),
                _ => CudaProblem::Call(told),
            },
            other => other,
        })?;
        let checked = bounds(&device, base, export);
        drop(entered);
        // Dropping either region closes the mapping.
        match checked {
            Ok(()) => Ok(CudaMemory::region(&device, base + export.offset, export.len, Hold::Mapped(base))),
            Err(problem) => {
                drop(CudaMemory::region(&device, base, 0, Hold::Mapped(base)));
                Err(problem)
            }
        }
    }
}

/// Whether the mapping at `base` has what the peer says.
fn bounds(device: &CudaDevice, base: CUdeviceptr, export: &Export) -> Result<(), CudaProblem> {
    let (start, size) = device.range(base)?;
    let has = (start + size).saturating_sub(base);
    if export.offset + export.len <= has {
        Ok(())
    } else {
        Err(CudaProblem::Shorter(export.offset + export.len, has))
    }
}

/// What drivers answer where namespaces or the platform are in the way.
const fn is_denied(code: i32) -> bool {
    matches!(
        code,
        CUDA_ERROR_MAP_FAILED
            | CUDA_ERROR_OPERATING_SYSTEM
            | CUDA_ERROR_NOT_PERMITTED
            | CUDA_ERROR_NOT_SUPPORTED
    )
}

/// As nvidia-smi shows it: `GPU-8a3f...`, in groups of 4, 2, 2, 2 and 6 bytes.
fn named(uuid: &[u8; 16]) -> String {
    let mut text = String::from("GPU");
    for (at, byte) in uuid.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Export {
        Export { uuid: [0xab; 16], offset: 4096, len: 1 << 30, handle: [7; CU_IPC_HANDLE_SIZE] }
    }

    #[test]
    fn what_is_sent_is_read_again() {
        let bytes = export().to_bytes();
        assert_eq!(bytes.len(), Export::LEN);
        assert_eq!(Export::from_bytes(&bytes), Ok(export()));
    }

    #[test]
    fn what_is_short_foreign_or_overflows_is_refused() {
        let bytes = export().to_bytes();
        for wrong in [&bytes[..Export::LEN - 1], &[], &[bytes.as_slice(), &[0]].concat()] {
            assert_eq!(Export::from_bytes(wrong).unwrap_err().code(), "cuda_bad_export");
        }
        let mut foreign = bytes;
        foreign[3] = b'2';
        assert!(Export::from_bytes(&foreign).unwrap_err().to_string().contains("another version"));
        let endless = Export { offset: u64::MAX, ..export() }.to_bytes();
        assert!(Export::from_bytes(&endless).unwrap_err().to_string().contains("beyond the last address"));
    }

    #[test]
    fn a_device_is_called_as_nvidias_tools_call_it() {
        let uuid = std::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(named(&uuid), "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
