//! Raw bindings to the part of UCX that a data plane uses, opened at run time: one binary for machines without UCX and
//! with any version from 1.13 to 1.23.
//!
//! [`open_any`] gives a [`Library`] or an error that lists what was tried; it never ends the process. Calls go through
//! it by their C names (`library.ucp_worker_progress(worker)`) and are as unsafe as in C. What came after 1.13 is in
//! [`Ucx::later`], each function a `Result`.
//!
//! **Rules for versions.** The structs are those of 1.22. Every field of 1.13 lies where it lay then, and newer fields
//! are behind a bit of `field_mask` that an older library ignores: an answer from it leaves them zero. Hand structs over
//! as [`Padded`], so that a version newer than 1.22 finds zeroes behind the end. Initialise with
//! `ucp_init_version(API.0, API.1, ...)`.
//!
//! **One UCX per process.** A second copy would hook the allocator twice and, when both go by the same name, be mixed
//! with the first one's parts.
//!
//! `src/generated` is bindgen's output, written by `make bindings`; the rest here is what bindgen cannot do.

mod completion;
#[expect(
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    non_camel_case_types,
    reason = "bindgen's output: C names, and the C headers are its documentation"
)]
mod generated;
mod library;
mod places;
mod zeroable;

pub use completion::Completion;
pub use generated::ucp::*;
pub use generated::ucp_later::UcpLater;
pub use kvferry_dynlib::{Bound, Candidate, NotFound, Padded, Refusal};
pub use library::{API, Library, OLDEST, Ucx, Version, open, open_any};
pub use places::{candidates, candidates_in};
