//! Sockets that never wait, and the two calls that move bytes between them and memory. A stream that is encrypted would
//! differ from others here and nowhere else.

#![expect(unsafe_code, reason = "calls of the system with lists of places")]

use std::io;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket as Raw, TcpKeepalive, Type};

use super::limits::TURN_BYTES;
use super::memory::Ranges;

/// Places that one call of the system takes: `IOV_MAX` of Linux.
const PLACES: usize = 1024;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A connection on which nothing happens is probed after this time; so that a peer whose host has vanished is noticed
/// even when nothing is due from it.
const PROBE_AFTER: Duration = Duration::from_secs(10);
/// And then as often, three times.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub(super) struct Socket(Raw);

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
        Socket(raw).tuned(silence)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
        Self(raw).tuned(silence)
    }

    fn tuned(self, silence: Duration) -> io::Result<Self> {
        let socket = SockRef::from(&self.0);
        socket.set_tcp_nodelay(true)?;
        // Bytes that the peer does not take for as long end the connection, also while its window is closed.
        socket.set_tcp_user_timeout(Some(silence))?;
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
        Ok(self)
    }

    /// How connecting went.
    pub(super) fn outcome(&self) -> io::Result<()> {
        match self.0.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// This side's address.
    pub(super) fn local(&self) -> Option<IpAddr> {
        Some(self.0.local_addr().ok()?.as_socket()?.ip())
    }

    /// Sends from the front of `parts` what the socket takes.
    pub(super) fn send(&self, parts: &Gather<'_>) -> io::Result<usize> {
        let message = message(&parts.0.list);
        // SAFETY: every entry is a place that is borrowed for `parts`' life, or lies in a region that `Ranges` keeps; the
        // list outlives the call. Others may write these bytes meanwhile, which the kernel does not mind.
        let count = unsafe {
            libc::sendmsg(self.0.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Receives into the front of `places` what there is; 0 once the peer has closed.
    pub(super) fn receive(&self, places: &mut Scatter<'_>) -> io::Result<usize> {
        let mut message = message(&places.0.list);
        // SAFETY: every entry is a buffer that is borrowed alone for `places`' life, or lies in a region that `Ranges`
        // keeps and that no reference of ours points into; the list outlives the call.
        let count = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
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

#[derive(Debug)]
struct List {
    list: Vec<libc::iovec>,
    bytes: u64,
}

impl List {
    fn full(&self) -> bool {
        self.list.len() == PLACES || self.bytes >= TURN_BYTES
    }

    fn push(&mut self, base: *mut libc::c_void, len: usize) {
        if len > 0 {
            self.list.push(libc::iovec { iov_base: base, iov_len: len });
            self.bytes += len as u64;
        }
    }

    /// Whether all of it fitted.
    fn push_ranges(&mut self, ranges: &Ranges) -> bool {
        for vector in ranges.vectors() {
            if self.full() {
                return false;
            }
            let room = usize::try_from(TURN_BYTES - self.bytes).unwrap_or(usize::MAX);
            let len = vector.iov_len.min(room);
            self.push(vector.iov_base, len);
            if len < vector.iov_len {
                return false;
            }
        }
        true
    }
}

/// What is to be sent by one call, for as long as it is borrowed.
#[derive(Debug)]
pub(super) struct Gather<'a>(List, PhantomData<&'a [u8]>);

impl<'a> Gather<'a> {
    pub(super) fn new() -> Self {
        Self(List { list: Vec::with_capacity(16), bytes: 0 }, PhantomData)
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// `false` if there is no room for more.
    pub(super) fn push(&mut self, bytes: &'a [u8]) -> bool {
        if self.0.full() {
            return false;
        }
        self.0.push(bytes.as_ptr().cast_mut().cast(), bytes.len());
        true
    }

    /// `false` if not all of it had room.
    pub(super) fn push_ranges(&mut self, ranges: &'a Ranges) -> bool {
        self.0.push_ranges(ranges)
    }
}

/// Where one call receives to, for as long as it is borrowed.
#[derive(Debug)]
pub(super) struct Scatter<'a>(List, PhantomData<&'a mut [u8]>);

impl<'a> Scatter<'a> {
    pub(super) fn new() -> Self {
        Self(List { list: Vec::with_capacity(16), bytes: 0 }, PhantomData)
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    pub(super) fn push(&mut self, buffer: &'a mut [u8]) {
        if self.0.list.len() < PLACES {
            self.0.push(buffer.as_mut_ptr().cast(), buffer.len());
        }
    }

    /// `false` if not all of it had room.
    pub(super) fn push_ranges(&mut self, ranges: &'a mut Ranges) -> bool {
        self.0.push_ranges(ranges)
    }
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
