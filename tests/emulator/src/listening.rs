//! The ports of one emulator, bound together so that a half-started engine cannot exist.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::config::Config;

/// Where each service of an emulator is reached. The ports survive a restart, so that whoever holds an address
/// from an earlier life reaches the new engine and is refused there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// HTTP, with its address.
    pub(crate) http: SocketAddr,
    /// KV blocks, under an engine id.
    pub(crate) kv: u16,
    /// HTTP of the bootstrap server (sglang, mooncake).
    pub(crate) bootstrap: u16,
    /// KV blocks, under a request id only (offloading).
    pub(crate) p2p: u16,
    /// KV that prefill engines write here (MoRI-IO).
    pub(crate) notify: u16,
}

/// Bound listeners, not yet served.
pub(crate) struct Listening {
    pub(crate) http: TcpListener,
    pub(crate) kv: TcpListener,
    pub(crate) bootstrap: TcpListener,
    pub(crate) p2p: TcpListener,
    pub(crate) notify: TcpListener,
}

impl Listening {
    /// Binds every port.
    pub(crate) async fn bind(config: &Config) -> io::Result<Self> {
        let bind = |port| TcpListener::bind((config.host.as_str(), port));
        Ok(Self {
            http: bind(config.port).await?,
            kv: bind(config.kv_port).await?,
            bootstrap: bind(config.bootstrap_port).await?,
            p2p: bind(config.p2p_port).await?,
            notify: bind(config.notify_port).await?,
        })
    }

    /// Where they are reached.
    pub(crate) fn ports(&self) -> io::Result<Ports> {
        let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
        Ok(Ports {
            http: self.http.local_addr()?,
            kv: port(&self.kv)?,
            bootstrap: port(&self.bootstrap)?,
            p2p: port(&self.p2p)?,
            notify: port(&self.notify)?,
        })
    }
}
