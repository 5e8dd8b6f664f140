//! What an operator sees and does while the sidecar runs: metrics, readiness, requests in flight, the log level, the
//! configuration, traces, and the end.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

#[path = "../process/child.rs"]
#[expect(dead_code, reason = "each test program uses its part of this")]
mod child;

mod bounds;
mod configuration;
mod counting;
mod in_flight;
mod log_level;
mod names;
mod pod;
mod readiness;
mod scrape;
mod spans;
mod stopping;
mod tracing;
