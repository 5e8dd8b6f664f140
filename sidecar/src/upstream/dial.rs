//! Opens connections: names resolved, each address tried in turn, all of it within one timeout.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kvferry_contract::Endpoint;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::error::Broken;

/// After so long without traffic the kernel asks whether a peer is still there (spec/sidecar.md 5).
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Connects to `endpoint` within `timeout`.
pub(super) async fn dial(endpoint: &Endpoint, timeout: Duration) -> Result<TcpStream, Broken> {
    match tokio::time::timeout(timeout, connect(endpoint)).await {
        Ok(result) => result,
        Err(_) => Err(Broken::ConnectTimeout),
    }
}

async fn connect(endpoint: &Endpoint) -> Result<TcpStream, Broken> {
    let mut failed = None;
    for address in addresses(endpoint).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                prepare(&stream);
                return Ok(stream);
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(match failed {
        None => Broken::Resolve("no address".to_owned()),
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Broken::Refused,
        Some(error) => Broken::Connect(error.to_string()),
    })
}

async fn addresses(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Broken> {
    let port = endpoint.port();
    if endpoint.host() == "localhost" {
        // The engine in our own pod: no resolver between us, and either family will do.
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    if let Ok(ip) = endpoint.host().parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let found = tokio::net::lookup_host((endpoint.host(), port))
        .await
        .map_err(|error| Broken::Resolve(error.to_string()))?;
    Ok(found.collect())
}

/// Neither failure keeps a request from being served, so neither is an error.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
