//! What is the NIXL fabric's own, beside what every fabric promises (`tests/conformance`): libraries and plugins, files,
//! prepared blocks, what was measured. With every NIXL of this machine, each in a process of its own.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod blocks;
mod library;
mod meeting;
mod probe;
mod storage;
mod support;
