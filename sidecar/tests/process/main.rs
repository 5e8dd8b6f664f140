//! The real binary: its exit codes, what it says, and how it stops.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

#[path = "../common/mod.rs"]
mod common;

mod child;
mod log;
mod starting;
mod stopping;
