//! Memory that blocks lie in. Other processes and devices read and write it while we do, so nothing here makes a Rust
//! reference to its bytes: they are reached by pointer, copied in and out, or named to the kernel.
//!
//! - [`Region`]: some memory of one [`Kind`]; [`Registry`]: those of one side, by number;
//! - [`Arena`]: host memory that other processes can map;
//! - [`cuda`]: memory of NVIDIA devices;
//! - [`numa`], [`limits`]: where memory lies, and how much of it there may be.
//!
//! Bounds, numbers and the registry are pure, and their tests touch no mapping: miri runs them.

mod allocate;
mod arena;
pub mod cuda;
mod kind;
pub mod limits;
pub mod numa;
mod region;
mod registry;

pub use allocate::allocate;
pub use arena::{Arena, ArenaOptions, ArenaProblem, Numa, Owner, Pages};
pub use kind::{Device, Kind};
pub use region::{Keep, Region};
pub use registry::{MAX_REGIONS, Registry};
