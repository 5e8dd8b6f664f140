//! What the tests of the bindings share: C code compiled on the spot, the libraries and headers that `make setup`
//! installed, and a process of its own for each copy of a library.
//!
//! For tests only: it panics where a test would.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod compile;
mod installed;
mod process;

pub use compile::{C, Numbers};
pub use installed::{
    checkout, distribution, distribution_libraries, files_of, headers, python_folders, skipped,
};
pub use process::{Copy, each_in_its_own_process};
