//! Memory that blocks lie in. Other processes and devices read and write it while we do, so nothing here makes a Rust
//! reference to its bytes: they are reached by pointer, copied in and out, or named to the kernel.

mod arena;
mod kind;
mod region;
mod registry;

pub use arena::Arena;
pub use kind::{Device, Kind};
pub use region::{Keep, Region};
pub use registry::{MAX_REGIONS, Registry};
