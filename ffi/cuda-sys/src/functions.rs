//! The functions, bound by their symbols' names.

#![expect(non_snake_case, reason = "the C API's own names")]

use std::ffi::{c_char, c_int, c_uint, c_void};

use crate::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUipcMemHandle, CUpointer_attribute, CUresult, CUstream,
    CUuuid,
};

/// A struct of functions that must all be there, each a method of its C name.
macro_rules! required {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* fn $function:ident($($argument:ident: $type:ty),*);)* }) => {
        $(#[$doc])*
        pub struct $name {
            $($function: unsafe extern "C" fn($($type),*) -> CUresult,)*
            _library: libloading::Library,
        }

        impl $name {
            /// Binds them.
            ///
            /// # Errors
            /// The first that is missing.
            ///
            /// # Safety
            /// The library must be a CUDA driver, or do as one does.
            pub(crate) unsafe fn from_library(library: libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the caller vouches that the symbol is the driver API's, whose signature this is.
                    $($function: *unsafe { library.get(concat!(stringify!($function), "\0").as_bytes()) }?,)*
                    _library: library,
                })
            }

            $($(#[$about])*
            ///
            /// # Safety
            /// As in C: pointers must be good for what is read or written there, and handles live.
            pub unsafe fn $function(&self, $($argument: $type),*) -> CUresult {
                // SAFETY: the caller vouches for the arguments; the function is of this signature (`from_library`).
                unsafe { (self.$function)($($argument),*) }
            })*
        }
    };
}

required! {
    /// What every supported driver has.
    Functions {
        /// Begins everything. `flags` must be 0.
        fn cuInit(flags: c_uint);
        /// 1000 × major + 10 × minor of the newest CUDA that it speaks. Needs no `cuInit`.
        fn cuDriverGetVersion(version: *mut c_int);
        /// The constant's name of a result: a string that is never freed.
        fn cuGetErrorName(result: CUresult, name: *mut *const c_char);
        /// What a result means: a string that is never freed.
        fn cuGetErrorString(result: CUresult, text: *mut *const c_char);
        /// How many devices this process may see.
        fn cuDeviceGetCount(count: *mut c_int);
        /// The device of that number.
        fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
        /// Its model's name, terminated, in at most `len` bytes.
        fn cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
        /// What it is called everywhere. Of a slice (MIG), this is the whole's: prefer the later one.
        fn cuDeviceGetUuid(uuid: *mut CUuuid, device: CUdevice);
        /// Where it is on the bus, as `0000:1b:00.0`, terminated.
        fn cuDeviceGetPCIBusId(bus: *mut c_char, len: c_int, device: CUdevice);
        /// The context that the whole process shares on a device. To be released once for each time.
        fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
        /// Lets it go.
        fn cuDevicePrimaryCtxRelease_v2(device: CUdevice);
        /// Makes a context this thread's, in place of the one it has. Null: none.
        fn cuCtxSetCurrent(context: CUcontext);
        /// Makes a context this thread's, until it is popped.
        fn cuCtxPushCurrent_v2(context: CUcontext);
        /// Gives this thread the context back that it had before.
        fn cuCtxPopCurrent_v2(context: *mut CUcontext);
        /// Bytes of the current context's device: free, and in all.
        fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
        /// Memory of the current context's device.
        fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize);
        /// Lets it go.
        fn cuMemFree_v2(address: CUdeviceptr);
        /// The allocation, or the mapping, that an address lies in.
        fn cuMemGetAddressRange_v2(base: *mut CUdeviceptr, size: *mut usize, address: CUdeviceptr);
        /// Device to host. It returns at once only if the host's memory is pinned.
        fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
        /// Host to device. It returns at once only if the host's memory is pinned.
        fn cuMemcpyHtoDAsync_v2(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
        /// Device to device, also to another.
        fn cuMemcpyDtoDAsync_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
        /// A stream of the current context.
        fn cuStreamCreate(stream: *mut CUstream, flags: c_uint);
        /// Lets it go once it has done what it is at.
        fn cuStreamDestroy_v2(stream: CUstream);
        /// Waits until all of it is done.
        fn cuStreamSynchronize(stream: CUstream);
        /// Whether all of it is done, or `CUDA_ERROR_NOT_READY`.
        fn cuStreamQuery(stream: CUstream);
        /// An event of the current context.
        fn cuEventCreate(event: *mut CUevent, flags: c_uint);
        /// Lets it go.
        fn cuEventDestroy_v2(event: CUevent);
        /// Marks what a stream has been given so far.
        fn cuEventRecord(event: CUevent, stream: CUstream);
        /// Whether what was marked is done, or `CUDA_ERROR_NOT_READY`.
        fn cuEventQuery(event: CUevent);
        /// Waits for what was marked.
        fn cuEventSynchronize(event: CUevent);
        /// What names an allocation to another process. It is of the whole allocation, wherever the address lies in it.
        fn cuIpcGetMemHandle(handle: *mut CUipcMemHandle, address: CUdeviceptr);
        /// Maps another process' allocation. Once more for the same handle gives the same address, and is counted.
        fn cuIpcOpenMemHandle_v2(address: *mut CUdeviceptr, handle: CUipcMemHandle, flags: c_uint);
        /// Lets it go. Must come before the other process frees it.
        fn cuIpcCloseMemHandle(address: CUdeviceptr);
        /// What is known of an address. What `data` points to depends on what is asked.
        fn cuPointerGetAttribute(data: *mut c_void, attribute: CUpointer_attribute, address: CUdeviceptr);
        /// Pins host memory.
        fn cuMemHostRegister_v2(memory: *mut c_void, bytes: usize, flags: c_uint);
        /// Lets it go.
        fn cuMemHostUnregister(memory: *mut c_void);
    }
}

/// What only later drivers have: ask each before the call.
pub struct Later {
    /// What a device, or a slice of one (MIG), is called everywhere. Since 11.4.
    pub cuDeviceGetUuid_v2:
        Result<unsafe extern "C" fn(uuid: *mut CUuuid, device: CUdevice) -> CUresult, libloading::Error>,
    _library: libloading::Library,
}

impl Later {
    /// Binds what is there.
    ///
    /// # Safety
    /// As for [`Functions::from_library`].
    pub(crate) unsafe fn from_library(library: libloading::Library) -> Self {
        // SAFETY: the caller vouches that the symbol is the driver API's, whose signature this is.
        let uuid = unsafe { library.get(b"cuDeviceGetUuid_v2\0") };
        Self { cuDeviceGetUuid_v2: uuid.map(|function| *function), _library: library }
    }
}
