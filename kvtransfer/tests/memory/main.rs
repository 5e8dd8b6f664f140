//! Kinds of memory, against the machine and against a CUDA driver: a stand-in of ours wherever the tests run, and the real
//! one where there is one (`cuda::real`). Whatever needs a driver runs in processes of its own, since a process has one.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod arena;
mod cuda;
mod process;

use kvferry_ffi_testing::C;

const CC: C<'_> = C { folder: concat!(env!("CARGO_TARGET_TMPDIR"), "/memory") };
