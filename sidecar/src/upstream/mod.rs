//! The way to the engines: dialling, a pool of kept connections, one exchange at a time on each.
//!
//! Every worker thread has its own pool, so no request ever waits for another thread. HTTP/1.1 throughout: engines
//! speak nothing else.

mod body;
mod dial;
mod pool;
mod proxy;
mod send;
mod tally;

use std::sync::Arc;

use kvferry_contract::Endpoint;

pub use body::LegBody;
pub use pool::{Lease, Pool};
pub use proxy::Proxies;
pub(crate) use send::broken;
pub use send::{Sent, Upstream};
pub use tally::{Tallies, Tally};

/// The way to each kind of engine: TLS is chosen per leg, and so connections are kept per leg.
#[derive(Debug, Clone)]
pub struct Legs {
    /// To prefill engines.
    pub prefill: Upstream,
    /// To the decode engines of this pod.
    pub decode: Upstream,
    /// Where these are, by rank; at least one.
    pub decoders: Arc<[Arc<Endpoint>]>,
    /// To encoders.
    pub encode: Upstream,
    /// To prefill pods' bootstrap servers, which speak plain HTTP whatever their engines do.
    pub bootstrap: Upstream,
}

impl Legs {
    /// All of them.
    pub fn all(&self) -> [&Upstream; 4] {
        [&self.prefill, &self.decode, &self.encode, &self.bootstrap]
    }
}
