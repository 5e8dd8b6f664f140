//! KV between two emulators: the part that NIXL plays between two real engines.
//!
//! One TCP connection per pull. The reader sends small JSON messages, each behind a 4-byte length; the answer
//! to a read is one such message followed by the raw blocks.

pub(crate) mod client;
pub(crate) mod line;
pub(crate) mod send;
pub(crate) mod server;
pub(crate) mod wire;
