//! The TCP fabric where it differs from others: what goes over its sockets, and what becomes of it when they break, stall
//! or lie. What all fabrics have in common is in `tests/conformance`.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod ends;
mod hostile;
mod leases;
mod moves;
mod peers;
mod support;
mod tls;
