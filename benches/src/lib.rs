//! What `kvferry-bench` is made of, as a library so that its tests can drive the load against a server of their own.
//!
//! One process, one thread, makes all the load: on a small machine whatever the generator burns is taken from the
//! proxies under test, and a second generator thread would only hide that.

pub mod cli;
pub mod client;
pub mod connectors;
pub mod forwarder;
pub mod load;
pub mod proxy;

pub use kvferry_bench_common::{Error, Result, num, procfs};
pub(crate) use kvferry_bench_common::{stamp, svg};
