//! Memory of NVIDIA devices, by the CUDA driver of the machine, which is opened at run time: [`Cuda::open`] is an error on
//! a machine without one, and nothing else changes there.
//!
//! A [`CudaDevice`] gives memory as a [`Region`] of [`Kind::Cuda`]; what the region keeps is a [`CudaMemory`], which copies
//! in and out, frees, and [exports](CudaMemory::export) itself to another process of the machine. That process
//! [imports](Cuda::import) it, as a region of its own.
//!
//! **Contexts.** All is done in each device's primary context, the one that engines use, too. A thread is in it for the
//! length of a call and has its own back after it.
//!
//! **Who frees last.** The driver leaves undefined what happens to a mapping whose owner frees the memory under it. So
//! whoever exports keeps the region until the importing side has let go, or its process is gone; the shm fabric does.

mod device;
mod driver;
mod ipc;
mod memory;
mod pin;
mod problem;
mod stream;

pub use device::CudaDevice;
pub use driver::{Cuda, DeviceInfo};
pub use ipc::Export;
pub use memory::CudaMemory;
pub use pin::Pinned;
pub use problem::{CudaProblem, Told};
pub use stream::Copies;

#[cfg(doc)]
use super::{Kind, Region};
