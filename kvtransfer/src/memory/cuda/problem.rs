//! What can go wrong with devices' memory: in CUDA's own words, and with what to do about it.

use std::fmt;

use kvferry_cuda_sys::{
    CUDA_ERROR_DEVICE_UNAVAILABLE, CUDA_ERROR_ECC_UNCORRECTABLE, CUDA_ERROR_ILLEGAL_ADDRESS,
    CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, CUDA_ERROR_SYSTEM_NOT_READY,
};

use crate::memory::Device;
use crate::{Error, Fault};

/// What the driver answered to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The call, by its C name.
    pub call: &'static str,
    /// The driver's number for it.
    pub code: i32,
    /// The number's name, as `CUDA_ERROR_OUT_OF_MEMORY`.
    pub name: String,
    /// What the driver says that it means.
    pub text: String,
}

impl Told {
    /// What to do, where that is known.
    const fn advice(&self) -> Option<&'static str> {
        match self.code {
            CUDA_ERROR_DEVICE_UNAVAILABLE => {
                Some("another process has the device for itself: nvidia-smi -q -d COMPUTE shows the mode")
            }
            CUDA_ERROR_SYSTEM_NOT_READY => {
                Some("start the fabric manager (nvidia-fabricmanager), and try again")
            }
            CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => Some(
                "library and kernel module differ: restart the machine, or the container, after the driver's update",
            ),
            CUDA_ERROR_ECC_UNCORRECTABLE | CUDA_ERROR_ILLEGAL_ADDRESS | CUDA_ERROR_LAUNCH_FAILED => Some(
                "this process cannot use the device any more: restart it; if it comes back, look for Xid lines in dmesg",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers {}: {}", self.call, self.name, self.text)?;
        self.advice().map_or(Ok(()), |advice| write!(f, "; {advice}"))
    }
}

/// Why a device's memory could not be had, reached or shared. Each has a stable [code](Self::code).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaProblem {
    /// There is no driver of use: what was tried, and how to get one.
    Driver(String),
    /// This process has loaded another: (asked for, loaded).
    OtherDriver(String, String),
    /// The driver finds no device.
    NoDevice(Told),
    /// No device has that number: (asked for, how many there are).
    UnknownDevice(Device, u32),
    /// The device has not so much memory: bytes asked for, and free.
    OutOfMemory {
        /// Which device.
        device: Device,
        /// Bytes asked for.
        needed: u64,
        /// Bytes that it had just after.
        free: u64,
    },
    /// A range reaches out of the memory, of which this is the length in bytes.
    Bounds(u64),
    /// The driver cannot name that memory to other processes: it was not made by `cuMemAlloc`.
    NotShareable,
    /// What a peer sent does not name memory: what is wrong with it.
    BadExport(&'static str),
    /// The peer's memory is on a device that this process does not see: the device's UUID.
    NotVisible(String),
    /// This very process has exported it.
    OwnExport,
    /// The system does not let this process map the peer's memory.
    Denied(Told),
    /// The peer has freed it, or has ended.
    Gone(Told),
    /// The memory is shorter than the peer says: bytes (told, found).
    Shorter(u64, u64),
    /// Pinning is for host memory.
    NotHost,
    /// Anything else that the driver answers.
    Call(Told),
}

impl CudaProblem {
    /// A stable word for logs, metrics and other programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Driver(_) => "cuda_driver",
            Self::OtherDriver(..) => "cuda_other_driver",
            Self::NoDevice(_) => "cuda_no_device",
            Self::UnknownDevice(..) => "cuda_unknown_device",
            Self::OutOfMemory { .. } => "cuda_out_of_memory",
            Self::Bounds(_) => "cuda_bounds",
            Self::NotShareable => "cuda_not_shareable",
            Self::BadExport(_) => "cuda_bad_export",
            Self::NotVisible(_) => "cuda_not_visible",
            Self::OwnExport => "cuda_own_export",
            Self::Denied(_) => "cuda_denied",
            Self::Gone(_) => "cuda_gone",
            Self::Shorter(..) => "cuda_shorter",
            Self::NotHost => "cuda_not_host",
            Self::Call(_) => "cuda_call",
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::OtherDriver(..)
            | Self::UnknownDevice(..)
            | Self::Bounds(_)
            | Self::NotShareable
            | Self::OwnExport
            | Self::NotHost => Fault::Caller,
            Self::BadExport(_) | Self::Gone(_) | Self::Shorter(..) => Fault::Peer,
            Self::Driver(_)
            | Self::NoDevice(_)
            | Self::OutOfMemory { .. }
            | Self::NotVisible(_)
            | Self::Denied(_)
            | Self::Call(_) => Fault::Machine,
        }
    }

    /// Whether the same may work again later.
    pub const fn may_retry(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            Self::Call(told) => {
                matches!(told.code, CUDA_ERROR_DEVICE_UNAVAILABLE | CUDA_ERROR_SYSTEM_NOT_READY)
            }
            _ => false,
        }
    }
}

impl fmt::Display for CudaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver(what) => f.write_str(what),
            Self::OtherDriver(asked, loaded) => {
                write!(f, "{asked} was asked for, but this process has loaded the CUDA driver from {loaded}, and it can have one only")
            }
            Self::NoDevice(told) => write!(
                f,
                "the CUDA driver finds no device ({told}): ask for one (a resource request for nvidia.com/gpu, --gpus with \
                 docker), and see whether CUDA_VISIBLE_DEVICES hides it"
            ),
            Self::UnknownDevice(device, 0) => write!(f, "there is no cuda:{}: this process sees no device", device.0),
            Self::UnknownDevice(device, count) => write!(
                f,
                "there is no cuda:{}: this process sees {count}, from cuda:0 on (CUDA_VISIBLE_DEVICES decides)",
                device.0
            ),
            Self::OutOfMemory { device, needed, free } => write!(
                f,
                "cuda:{} has no {needed} bytes left (some {free} are free): give the engine less of it (vLLM: \
                 --gpu-memory-utilization), or ask for less",
                device.0
            ),
            Self::Bounds(len) => write!(f, "a range reaches out of device memory of {len} bytes"),
            Self::NotShareable => f.write_str(
                "CUDA cannot share this memory with other processes: it was not made by cuMemAlloc (for PyTorch, set \
                 PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False and leave the cudaMallocAsync backend off)",
            ),
            Self::BadExport(what) => write!(f, "what the peer sent names no CUDA memory: {what}"),
            Self::NotVisible(uuid) => write!(
                f,
                "the peer's memory is on {uuid}, which this process does not see: let both see both devices \
                 (CUDA_VISIBLE_DEVICES, NVIDIA_VISIBLE_DEVICES)"
            ),
            Self::OwnExport => {
                f.write_str("CUDA memory cannot be imported by the process that exported it; use its region instead")
            }
            Self::Denied(told) => write!(
                f,
                "the system does not let this process map the peer's device memory ({told}): CUDA IPC needs both in the same \
                 IPC and process namespaces (one pod with shareProcessNamespace: true, or hostIPC and hostPID; with docker \
                 --ipc and --pid), and there is none for MIG slices and in WSL"
            ),
            Self::Gone(told) => write!(f, "the peer has freed its device memory, or has ended ({told}); connect again"),
            Self::Shorter(told, found) => {
                write!(f, "the peer's device memory has {found} bytes, not the {told} that it says")
            }
            Self::NotHost => f.write_str("only host memory can be pinned"),
            Self::Call(told) => write!(f, "CUDA: {told}"),
        }
    }
}

impl std::error::Error for CudaProblem {}

impl From<CudaProblem> for Error {
    fn from(problem: CudaProblem) -> Self {
        match problem {
            CudaProblem::Driver(_) | CudaProblem::OtherDriver(..) => Self::Library(problem.to_string()),
            CudaProblem::Gone(_) => Self::Lost(problem.to_string()),
            CudaProblem::BadExport(what) => Self::Metadata(what),
            _ => Self::Limit(problem.to_string()),
        }
    }
}
