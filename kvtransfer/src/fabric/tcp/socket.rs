//! Sockets that never wait, and the two calls that move bytes between them and memory. A stream that is encrypted differs
//! from others here and nowhere else.

#![expect(unsafe_code, reason = "calls of the system with lists of places")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket as Raw, TcpKeepalive, Type};

use super::inbuf::InBuf;
use super::places::{Gather, Scatter};
use super::tls::{Session, Tls, TlsProblem};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A connection on which nothing happens is probed after this time; so that a peer whose host has vanished is noticed
/// even when nothing is due from it.
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// And then as often, three times.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    raw: Raw,
    tls: Option<Box<Session>>,
}

/// Where connections come in.
#[derive(Debug)]
pub(super) struct Listener(Raw);

impl Listener {
    pub(super) fn bind(address: SocketAddr) -> io::Result<Self> {
        let raw = Raw::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        raw.set_reuse_address(true)?;
        raw.bind(&address.into())?;
        raw.listen(BACKLOG)?;
        Ok(Self(raw))
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// The next connection; [`io::ErrorKind::WouldBlock`] if there is none.
    pub(super) fn accept(&self, silence: Duration) -> io::Result<Socket> {
        let (raw, _) = self.0.accept()?;
        raw.set_nonblocking(true)?;
        Socket::tuned(raw, silence)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

impl Socket {
    /// Begins to connect. It is writable once it knows how that went; see [`outcome`](Self::outcome).
    pub(super) fn connect(address: SocketAddr, silence: Duration) -> io::Result<Self> {
        let raw = Raw::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        match raw.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Self::tuned(raw, silence)
    }

    fn tuned(raw: Raw, silence: Duration) -> io::Result<Self> {
        let socket = SockRef::from(&raw);
        socket.set_tcp_nodelay(true)?;
        // Bytes that the peer does not take for as long end the connection, also while its window is closed.
        socket.set_tcp_user_timeout(Some(silence))?;
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
        Ok(Self { raw, tls: None })
    }

    /// How connecting went.
    pub(super) fn outcome(&self) -> io::Result<()> {
        match self.raw.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// This side's address.
    pub(super) fn local(&self) -> Option<IpAddr> {
        Some(self.raw.local_addr().ok()?.as_socket()?.ip())
    }

    /// From here on all is encrypted, for the one who is reached at `address`.
    ///
    /// # Errors
    /// If the configuration is of no use.
    pub(super) fn encrypt_for(&mut self, tls: &Tls, address: IpAddr) -> Result<(), TlsProblem> {
        self.tls = Some(Box::new(Session::client(tls, address)?));
        Ok(())
    }

    /// From here on all is encrypted, for the one who has connected.
    ///
    /// # Errors
    /// As above.
    pub(super) fn encrypt_for_guest(&mut self, tls: &Tls) -> Result<(), TlsProblem> {
        self.tls = Some(Box::new(Session::server(tls)?));
        Ok(())
    }

    /// Whether it is encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// The one who has connected does not encrypt, and is told so in its own words: what it has said.
    pub(super) fn speak_plainly(&mut self) -> InBuf {
        self.tls.take().map(|session| session.into_words()).unwrap_or_default()
    }

    /// Whether it would take bytes to send: not before both ends have agreed on keys.
    pub(super) fn takes(&self) -> bool {
        self.tls.as_ref().is_none_or(|session| session.is_open())
    }

    /// Whether it keeps something that the system has not taken yet.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.has_unsent())
    }

    /// Nothing happens for a while: gives memory back.
    pub(super) fn rest(&mut self) {
        if let Some(session) = &mut self.tls {
            session.rest();
        }
    }

    /// Sends what it [keeps](Self::has_unsent), and then from the front of `parts` what it takes: how many of these bytes.
    pub(super) fn send(&mut self, parts: &mut Gather<'_>) -> io::Result<usize> {
        if let Some(session) = &mut self.tls {
            return session.send(&self.raw, parts);
        }
        if parts.bytes() == 0 {
            return Ok(0);
        }
        let message = message(parts.vectors());
        // SAFETY: every entry is a place that is borrowed for `parts`' life, or lies in a region that `Ranges` keeps; the
        // list outlives the call. Others may write these bytes meanwhile, which the kernel does not mind.
        let count = unsafe {
            libc::sendmsg(self.raw.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Receives into the front of `places` what there is; 0 once the peer has closed. Fewer bytes than there are places
    /// only if there are no more for now.
    pub(super) fn receive(&mut self, places: &mut Scatter<'_>) -> io::Result<usize> {
        if let Some(session) = &mut self.tls {
            return session.receive(&self.raw, places);
        }
        let mut message = message(places.vectors());
        // SAFETY: every entry is a buffer that is borrowed alone for `places`' life, or lies in a region that `Ranges`
        // keeps and that no reference of ours points into; the list outlives the call.
        let count = unsafe { libc::recvmsg(self.raw.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }
}

fn message(list: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: zero is a value of all its fields: no name, no list, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = list.as_ptr().cast_mut();
    message.msg_iovlen = list.len() as _;
    message
}

/// Random bytes from the machine.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: `bytes` has room for as many as are asked for.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    // Up to 256 bytes come whole or not at all.
    if usize::try_from(count) == Ok(N) { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}

/// The network interface that has an address; empty if none is known.
pub(super) fn device(address: IpAddr) -> String {
    let of = |entry: &nix::ifaddrs::InterfaceAddress| ip(entry.address.as_ref()?);
    let entries = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut found = entries.filter(|entry| of(entry) == Some(address));
    // The loopback device answers for all of 127.0.0.0/8, of which it lists one.
    let fallback = if address.is_loopback() { "lo" } else { "" };
    found.next().map_or_else(|| fallback.into(), |entry| entry.interface_name)
}

/// Addresses of this host of the same family as `like`, those of the loopback device only if there are no others.
pub(super) fn host_addresses(like: IpAddr) -> Vec<IpAddr> {
    let entries = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let all: Vec<IpAddr> = entries
        .filter_map(|entry| ip(entry.address.as_ref()?))
        .filter(|ip| ip.is_ipv4() == like.is_ipv4() && !is_link_local(*ip))
        .collect();
    let (loopback, mut real): (Vec<_>, Vec<_>) = all.into_iter().partition(IpAddr::is_loopback);
    real.dedup();
    if real.is_empty() { loopback } else { real }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn ip(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}
