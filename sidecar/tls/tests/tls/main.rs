//! TLS as its two ends see it: real handshakes between the listener and the legs, and with rustls directly.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;
mod files;
mod legs;
mod listener;
mod mutual;
mod reload;
mod system_roots;
