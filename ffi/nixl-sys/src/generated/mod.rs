//! What `make bindings` writes.

pub mod nixl;
pub mod nixl_later;
