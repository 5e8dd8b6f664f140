//! The way to the engines: dialling, a pool of kept connections, one exchange at a time on each.
//!
//! Every worker thread has its own pool, so no request ever waits for another thread. HTTP/1.1 throughout: engines
//! speak nothing else.

mod body;
mod dial;
mod pool;
mod send;

pub use body::LegBody;
pub use pool::{Lease, Pool};
pub(crate) use send::broken;
pub use send::{Sent, Upstream};
