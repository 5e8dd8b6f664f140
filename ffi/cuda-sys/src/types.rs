//! Types and numbers of the driver API: facts of its ABI, the same in every supported version.

use std::ffi::{c_char, c_int, c_uint};

/// What every call answers: one of the constants below, or another number that [`cuGetErrorName`] knows.
///
/// [`cuGetErrorName`]: crate::Functions::cuGetErrorName
pub type CUresult = c_int;

/// It was done.
pub const CUDA_SUCCESS: CUresult = 0;
/// An argument is out of range.
pub const CUDA_ERROR_INVALID_VALUE: CUresult = 1;
/// The device, or the host, has not so much memory.
pub const CUDA_ERROR_OUT_OF_MEMORY: CUresult = 2;
/// `cuInit` has not been called.
pub const CUDA_ERROR_NOT_INITIALIZED: CUresult = 3;
/// The library is the toolkit's stand-in for linking.
pub const CUDA_ERROR_STUB_LIBRARY: CUresult = 34;
/// The device is used exclusively by others, or is in prohibited mode.
pub const CUDA_ERROR_DEVICE_UNAVAILABLE: CUresult = 46;
/// The driver finds no device.
pub const CUDA_ERROR_NO_DEVICE: CUresult = 100;
/// No device has that number.
pub const CUDA_ERROR_INVALID_DEVICE: CUresult = 101;
/// No context is current, or another than the call needs. Opening an IPC handle in the process that made it, too.
pub const CUDA_ERROR_INVALID_CONTEXT: CUresult = 201;
/// Memory of another process cannot be mapped.
pub const CUDA_ERROR_MAP_FAILED: CUresult = 205;
/// The device's memory has failed.
pub const CUDA_ERROR_ECC_UNCORRECTABLE: CUresult = 214;
/// Two devices cannot reach each other.
pub const CUDA_ERROR_PEER_ACCESS_UNSUPPORTED: CUresult = 217;
/// A call to the operating system failed.
pub const CUDA_ERROR_OPERATING_SYSTEM: CUresult = 304;
/// A handle means nothing, or nothing any more.
pub const CUDA_ERROR_INVALID_HANDLE: CUresult = 400;
/// What was asked after is still under way. No failure.
pub const CUDA_ERROR_NOT_READY: CUresult = 600;
/// A kernel touched what is not mapped; the context is of no use any more.
pub const CUDA_ERROR_ILLEGAL_ADDRESS: CUresult = 700;
/// A device reaches as many others as it can.
pub const CUDA_ERROR_TOO_MANY_PEERS: CUresult = 711;
/// That host memory is registered already.
pub const CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED: CUresult = 712;
/// A kernel failed; the context is of no use any more.
pub const CUDA_ERROR_LAUNCH_FAILED: CUresult = 719;
/// The system does not permit it.
pub const CUDA_ERROR_NOT_PERMITTED: CUresult = 800;
/// The system or the device has no such thing.
pub const CUDA_ERROR_NOT_SUPPORTED: CUresult = 801;
/// Something that belongs to the driver (the fabric manager, say) is not running yet.
pub const CUDA_ERROR_SYSTEM_NOT_READY: CUresult = 802;
/// The library and the kernel's module are of different versions.
pub const CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: CUresult = 803;
/// Something went wrong that has no number of its own.
pub const CUDA_ERROR_UNKNOWN: CUresult = 999;

/// A device, as the driver counts those that this process may see.
pub type CUdevice = c_int;
/// An address in the one address space that devices and host share.
pub type CUdeviceptr = u64;

/// What lies behind a context.
#[repr(C)]
#[derive(Debug)]
pub struct CUctx_st {
    _opaque: [u8; 0],
}
/// A context: a process' presence on a device.
pub type CUcontext = *mut CUctx_st;

/// What lies behind a stream.
#[repr(C)]
#[derive(Debug)]
pub struct CUstream_st {
    _opaque: [u8; 0],
}
/// Work that is done in order.
pub type CUstream = *mut CUstream_st;

/// What lies behind an event.
#[repr(C)]
#[derive(Debug)]
pub struct CUevent_st {
    _opaque: [u8; 0],
}
/// A mark in a stream.
pub type CUevent = *mut CUevent_st;

/// What a device is called everywhere, in whatever order a process counts.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CUuuid {
    /// It.
    pub bytes: [c_char; 16],
}

/// Bytes of [`CUipcMemHandle`].
pub const CU_IPC_HANDLE_SIZE: usize = 64;

/// What names an allocation to another process of the machine. Handed over by value.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CUipcMemHandle {
    /// The driver's own.
    pub reserved: [c_char; CU_IPC_HANDLE_SIZE],
}

/// For `cuIpcOpenMemHandle_v2`, which takes no other: the device reaches others when it first has to.
pub const CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS: c_uint = 1;
/// For `cuStreamCreate`: does not wait for the null stream, which somebody else may use.
pub const CU_STREAM_NON_BLOCKING: c_uint = 1;
/// For `cuEventCreate`: no time is taken, which makes it cheaper.
pub const CU_EVENT_DISABLE_TIMING: c_uint = 2;
/// For `cuMemHostRegister_v2`: pinned for all contexts, not the current one alone.
pub const CU_MEMHOSTREGISTER_PORTABLE: c_uint = 1;

/// What can be asked about an address.
pub type CUpointer_attribute = c_uint;
/// A `CUmemorytype` (unsigned int): where the memory is.
pub const CU_POINTER_ATTRIBUTE_MEMORY_TYPE: CUpointer_attribute = 2;
/// An int: the device that it is on.
pub const CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: CUpointer_attribute = 9;
/// An int: whether `cuIpcGetMemHandle` takes it. Since 11.1.
pub const CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE: CUpointer_attribute = 10;

/// A value of [`CU_POINTER_ATTRIBUTE_MEMORY_TYPE`]: a device's.
pub const CU_MEMORYTYPE_DEVICE: c_uint = 2;
