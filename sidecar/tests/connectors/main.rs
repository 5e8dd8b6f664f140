//! Each connector end to end: what both legs carry, content that is right because the KV was, and what is left behind when
//! something fails.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

mod answering;
mod atom;
mod bidirectional;
mod chunked;
mod encoders;
mod first_token;
mod hosts;
mod mooncake;
mod moriio;
mod offloading;
mod overlapping;
mod push;
mod sglang;
mod shared_storage;
mod speculative;
