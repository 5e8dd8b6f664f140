//! Agents and real fabrics, in one process or two: bytes that are right, ends that come, and reports that tell
//! the truth, while fabrics and peers do not keep still.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod ends;
mod faults;
mod hostile;
mod leaks;
mod libraries;
mod lives;
mod meeting;
mod moves;
mod quiet;
mod rails;
mod storms;
mod support;
