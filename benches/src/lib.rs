//! What `kvferry-bench` is made of, as a library so that its tests can drive the load against a server of their own.
//!
//! One process, one thread, makes all the load: on a small machine whatever the generator burns is taken from the
//! proxies under test, and a second generator thread would only hide that.

pub mod cli;
pub mod client;
pub mod connectors;
pub mod forwarder;
pub mod load;
pub mod num;
pub mod procfs;
pub mod proxy;
pub(crate) mod svg;

/// What went wrong, in words that say what to do; the bench has nobody who would match on variants.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Everything fallible in the bench.
pub type Result<T> = std::result::Result<T, Error>;
