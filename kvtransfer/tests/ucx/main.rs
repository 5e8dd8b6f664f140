//! What is the UCX fabric's own, beside what every fabric promises (`tests/conformance`): libraries, lanes, and settings.
//! With every UCX of this machine, each in a process of its own.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod lanes;
mod library;
mod meeting;
mod support;
