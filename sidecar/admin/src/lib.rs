//! The operator's port: metrics, readiness, what is in flight, log level.
//!
//! What it guards: whatever happens on this port delays no request, because it has a thread of its own; whoever hangs
//! on it keeps no probe out, because connections are few, short, and the oldest gives way; and nothing here is served
//! on the data port, whose paths belong to the model server.
//!
//! What is answered comes from a [`Source`]; this crate knows only how to ask and how to say it.

mod connection;
mod listen;
mod readiness;
mod routes;
mod server;
mod source;

pub use connection::{Accepting, Acceptor, Stream};
pub use readiness::{Condition, Readiness, Reason};
pub use server::Admin;
pub use source::{Exposition, InFlight, Request, Source};
