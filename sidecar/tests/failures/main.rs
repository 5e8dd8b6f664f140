//! Whatever an engine does wrong, the client gets one clear answer or a visible cut, and no KV stays behind.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

mod deadlines;
mod decode;
mod failover;
mod prefill;
mod release;
