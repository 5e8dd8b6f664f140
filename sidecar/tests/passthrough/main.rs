//! Without a prefill header the sidecar is invisible: what an engine and a client say to each other arrives unchanged
//! and when it was said.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod connections;
mod http2;
mod interim;
mod paths;
