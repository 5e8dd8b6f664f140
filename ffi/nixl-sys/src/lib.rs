//! Raw bindings to the C API of NIXL, opened at run time: one binary for machines without NIXL and with any version
//! from 1.0 to 1.5.
//!
//! [`open_any`] gives a [`Library`] or an error that lists what was tried; it never ends the process. Calls go through
//! it by their C names (`library.nixl_capi_post_xfer_req(...)`) and are as unsafe as in C. What came after 1.0 is in
//! [`Capi::later`], each function a `Result`.
//!
//! **Rules for versions.** The one struct that NIXL reads, the agent's configuration, states neither its size nor its
//! version: hand it over as [`Padded`], so that a version that made it longer finds zeroes behind the end. 1.0 answers
//! `NIXL_CAPI_ERROR_BACKEND` where 1.5 tells `INVALID_PARAM` and `NOT_FOUND` apart; every version folds the rest, a
//! remote that disconnected and a cancelled transfer among them, into `ERROR_BACKEND`.
//!
//! **Whose memory.** What comes back through a `void **` or `char **` is the caller's, to be given to `free`; what comes
//! back through `const` is the library's.
//!
//! `src/generated` is bindgen's output, written by `make bindings`; the rest here is what bindgen cannot do.

#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    non_camel_case_types,
    reason = "bindgen's output: C names, and the C header is its documentation"
)]
mod generated;
mod library;
mod places;
mod version;

pub use generated::nixl::*;
pub use generated::nixl_later::NixlLater;
pub use kvferry_dynlib::{Bound, Candidate, NotFound, Padded, Refusal};
pub use library::{Capi, Library, open, open_any};
pub use places::{candidates, candidates_in};
pub use version::Version;
