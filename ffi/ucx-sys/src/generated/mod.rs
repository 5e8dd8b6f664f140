//! What `make bindings` writes.

pub mod ucp;
pub mod ucp_later;
