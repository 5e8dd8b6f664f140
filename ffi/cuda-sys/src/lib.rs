//! Raw bindings to the small part of the CUDA driver API that a data plane uses, opened at run time: one binary for
//! machines without an NVIDIA driver and with any from CUDA 11.0 on.
//!
//! [`open_any`] gives a [`Library`] or an error that lists what was tried; it never ends the process. Calls go through
//! it by their C names (`library.cuMemAlloc_v2(...)`) and are as unsafe as in C. What came after 11.0 is in
//! [`Driver::later`], each function a `Result`.
//!
//! **Names.** These are the library's own symbols: where NVIDIA's header maps a plain name to one that ends in `_v2`, the
//! plain symbol has another signature (32-bit sizes) and stays for binaries of another age. A test compares each with the
//! header.
//!
//! **Versions.** The driver's major version may be newer than any header: it keeps its promises to old callers, so only a
//! version that is too old is refused. The toolkit's own `libcuda.so` for linking is told by its answers and refused, too.
//!
//! The declarations are ours: there is no header at build time.

mod functions;
mod library;
mod places;
#[expect(non_camel_case_types, reason = "the C API's own names")]
mod types;

pub use functions::{Functions, Later};
pub use kvferry_dynlib::{Bound, Candidate, NotFound, Refusal};
pub use library::{Driver, Library, OLDEST, Version, open, open_any};
pub use places::candidates;
pub use types::*;
