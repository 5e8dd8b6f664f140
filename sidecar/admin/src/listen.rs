//! Opens the port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// Listens on `address`. All interfaces of IPv6 mean IPv4 too; on a host without IPv6 they mean IPv4 alone.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind(address) {
        Err(error)
            if address.is_ipv6()
                && address.ip().is_unspecified()
                && error.kind() != io::ErrorKind::AddrInUse =>
        {
            TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()))?
        }
        result => result?,
    };
    listener.set_nonblocking(true)?;
    Ok(listener)
}
