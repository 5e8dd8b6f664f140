//! One request over two engines: what each leg looks like on the wire, and what comes back to the client.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod bodies;
mod headers;
mod targets;
mod usage;
