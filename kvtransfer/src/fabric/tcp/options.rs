//! What a TCP fabric can be told.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::limits::{MAX_ADDRESSES, MAX_BUSY_POLL, MAX_STREAMS, MAX_THREADS};
use super::tls::Tls;
use crate::{AgentName, Epoch, Error};

/// What [`TcpFabric::open`](super::TcpFabric::open) is told. Begin with [`TcpOptions::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct TcpOptions {
    /// What peers call this agent.
    pub name: AgentName,
    /// This life of it.
    pub epoch: Epoch,
    /// Where to listen; port 0 takes any. Several are rails: peers spread their streams over them.
    pub listen: Vec<SocketAddr>,
    /// Where peers reach that, if it is not where this listens (address translation); else empty.
    pub advertise: Vec<SocketAddr>,
    /// Streams to each rail of a peer, 1 to 64 in all. One is bound by one core's copying on either side; two keep both
    /// ends of a stream busy, and more help only with several threads.
    pub streams: usize,
    /// Progress threads, 1 to 32. One moves what one core can copy (several GB/s); streams are spread over them.
    pub threads: usize,
    /// Bytes under way on each stream, 64 KiB to 1 GiB. Bandwidth times round trip of a stream fits, and little more, for
    /// what is under way delays what comes after it, and large buffers fall out of the caches.
    pub window: u64,
    /// How long a peer may be silent while something is due from it, before it is lost; 100 ms to an hour.
    pub silence: Duration,
    /// How long a progress thread stays awake after it had something to do, at most 10 ms: it then need not be woken for
    /// what comes next, at the price of one core meanwhile. Zero, the default, never burns any.
    pub busy_poll: Duration,
    /// How long connecting may take.
    pub connect_within: Duration,
    /// If there is one, only peers that know it are served and talked to. It proves who is there; it does not encrypt.
    pub secret: Option<Secret>,
    /// If it is there, every stream is encrypted, and peers that do not encrypt are neither served nor talked to.
    pub tls: Option<Tls>,
}

/// Bytes that all agents of a deployment share.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// These bytes. 16 random ones or more are worth something.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl TcpOptions {
    /// The defaults, for an agent that listens on `listen`.
    pub fn new(name: AgentName, epoch: Epoch, listen: SocketAddr) -> Self {
        Self {
            name,
            epoch,
            listen: vec![listen],
            advertise: Vec::new(),
            streams: 2,
            threads: 1,
            window: 4 << 20,
            silence: Duration::from_secs(15),
            busy_poll: Duration::ZERO,
            connect_within: Duration::from_secs(5),
            secret: None,
            tls: None,
        }
    }

    /// # Errors
    /// [`Error::Limit`], which says what is out of bounds.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Limit(format!("options of the TCP fabric: {what}")));
        if !(1..=MAX_ADDRESSES).contains(&self.listen.len()) || self.advertise.len() > MAX_ADDRESSES {
            return refuse("listen on 1 to 16 addresses");
        }
        if !(1..=MAX_STREAMS).contains(&self.streams) {
            return refuse("use 1 to 64 streams");
        }
        if !(1..=MAX_THREADS).contains(&self.threads) {
            return refuse("use 1 to 32 threads");
        }
        if !(64 << 10..=1 << 30).contains(&self.window) {
            return refuse("use a window of 64 KiB to 1 GiB");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.silence) {
            return refuse("bear silence for 100 ms to an hour");
        }
        if self.busy_poll > MAX_BUSY_POLL {
            return refuse("stay awake for at most 10 ms");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_bounds_are_refused_and_a_secret_is_not_shown() {
        let name = AgentName::new("a").unwrap();
        let good = TcpOptions::new(name, Epoch(1), "127.0.0.1:0".parse().unwrap());
        assert_eq!(good.check(), Ok(()));
        for bad in [
            TcpOptions { listen: vec![], ..good.clone() },
            TcpOptions { streams: 0, ..good.clone() },
            TcpOptions { threads: 33, ..good.clone() },
            TcpOptions { window: 1, ..good.clone() },
            TcpOptions { silence: Duration::ZERO, ..good.clone() },
            TcpOptions { busy_poll: Duration::from_secs(1), ..good.clone() },
        ] {
            assert_eq!(bad.check().unwrap_err().code(), "limit", "{bad:?}");
        }
        let secret = TcpOptions { secret: Some(Secret::new(b"hush")), ..good };
        assert!(!format!("{secret:?}").contains("hush") && !format!("{secret:?}").contains("104"));
    }
}
