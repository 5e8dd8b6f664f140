//! Data parallelism: a port for each rank, a header that chooses one, and engines that share pools but not fate
//! (spec/sidecar.md 4).

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

#[path = "../process/child.rs"]
#[expect(dead_code, reason = "each test program uses its part of this")]
mod child;

mod fate;
mod header;
mod pod;
mod ports;
