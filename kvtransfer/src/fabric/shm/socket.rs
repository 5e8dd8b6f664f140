//! Unix sockets: where peers knock, who they are, and bytes with a file along.

#![expect(unsafe_code, reason = "descriptors that the kernel hands over")]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr, bind, connect, getsockopt, listen, recvmsg, sendmsg, shutdown, socket,
};

use crate::Error;

/// Peers that may knock before one is let in: as many as can ever be connected, if the machine allows it.
const BACKLOG: i32 = 4096;

/// Files that one message can carry in Linux. Room for all of them is kept, so that none is ever lost half received.
const MAX_FILES: usize = 253;

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Abstract(Vec<u8>),
    Path(PathBuf),
}

impl Address {
    /// What `sockaddr_un` has room for, without a final zero.
    pub(super) const MAX_LEN: usize = 107;

    fn unix(&self) -> Result<UnixAddr, Errno> {
        match self {
            Self::Abstract(name) => UnixAddr::new_abstract(name),
            Self::Path(path) => UnixAddr::new(path),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Who is on the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) uid: u32,
    /// 0 if it lives in a process namespace that this side cannot see into.
    pub(super) pid: i32,
}

/// Where peers knock. A socket file goes when it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    file: Option<PathBuf>,
}

impl Listener {
    /// Listens. Who may knock is decided by [`credentials`]; a file's mode only spares strangers the way.
    pub(super) fn open(address: &Address, strangers: bool) -> Result<Self, Error> {
        let refused = |errno: Errno| Error::System("listening on the shm fabric's socket", errno as i32);
        let socket = new_socket().map_err(refused)?;
        let unix = address.unix().map_err(refused)?;
        match (bind(socket.as_raw_fd(), &unix), address) {
            (Err(Errno::EADDRINUSE), Address::Path(path)) => {
                replace_dead(path, address)?;
                bind(socket.as_raw_fd(), &unix).map_err(refused)?;
            }
            (bound, _) => bound.map_err(refused)?,
        }
        let file = match address {
            Address::Abstract(_) => None,
            Address::Path(path) => {
                let mode = if strangers { 0o666 } else { 0o600 };
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
                    .map_err(|error| Error::system("chmod of the shm fabric's socket", &error))?;
                Some(path.clone())
            }
        };
        listen(&socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)).map_err(refused)?;
        Ok(Self { socket: socket.into(), file })
    }

    /// The next that knocks, if one does.
    pub(super) fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            match self.socket.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(true)?;
                    return Ok(Some(stream.into()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // It went away while it waited, or a signal came.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // It is one more leftover if that fails, which the next life replaces.
            drop(std::fs::remove_file(file));
        }
    }
}

/// Removes a socket file that nobody listens on any more.
fn replace_dead(path: &Path, address: &Address) -> Result<(), Error> {
    match knock(address) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path)
            .map_err(|error| Error::system("removing the socket that an earlier life left", &error)),
        _ => Err(Error::Limit(format!(
            "another process listens on {address}; give each agent a socket of its own"
        ))),
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

/// Knocks. `EAGAIN` says that too many others do.
pub(super) fn knock(address: &Address) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    connect(socket.as_raw_fd(), &address.unix()?)?;
    Ok(socket)
}

/// Who the kernel says is on the other end: it cannot be forged.
pub(super) fn credentials(socket: &impl AsFd) -> Result<Credentials, Error> {
    let found = getsockopt(&socket.as_fd(), PeerCredentials)
        .map_err(|errno| Error::System("asking for a peer's credentials", errno as i32))?;
    Ok(Credentials { uid: found.uid(), pid: found.pid() })
}

/// Sends as much as fits now, and `file` with the first byte.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8], file: Option<BorrowedFd<'_>>) -> Result<usize, Errno> {
    let files = file.map(|file| [file.as_raw_fd()]);
    let along = files.as_ref().map(|files| [ControlMessage::ScmRights(files)]);
    let along: &[ControlMessage<'_>] = along.as_ref().map_or(&[], |along| along);
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[io::IoSlice::new(bytes)], along, flags, None) {
            Err(Errno::EINTR) => {}
            sent => return sent,
        }
    }
}

/// Receives what is there now: 0 bytes at the end. Files that come along are appended to `files`.
pub(super) fn receive(
    socket: &OwnedFd,
    into: &mut [u8],
    files: &mut VecDeque<OwnedFd>,
) -> Result<usize, Errno> {
    let mut along = cmsg_space!([RawFd; MAX_FILES]);
    let mut slices = [io::IoSliceMut::new(into)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let received = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut along), flags) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = message {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows their numbers.
            files.extend(received.into_iter().map(|file| unsafe { OwnedFd::from_raw_fd(file) }));
        }
    }
    Ok(received.bytes)
}

/// Whether the other end has neither parted nor died until now.
///
/// This is what makes a copy count. Whoever lets go of memory that its peer may be reading shuts the socket first, and the
/// kernel does so for a process that dies; the shut shows here at once. So what was copied before this said `true` was
/// copied from memory that its owner had not let go of.
pub(super) fn is_whole(socket: &OwnedFd) -> bool {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    // A hang-up is reported unasked.
    let mut asked = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut asked, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            found => return found == Ok(0),
        }
    }
}

/// Ends the connection for both sides, also while others still hold the socket.
pub(super) fn sever(socket: &OwnedFd) {
    // It fails only if the other end is gone, which is as good.
    shutdown(socket.as_raw_fd(), Shutdown::Both).ok();
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (one, other) = UnixStream::pair().unwrap();
        (one.into(), other.into())
    }

    #[test]
    fn a_connection_is_whole_until_either_end_severs_it_or_is_gone_whatever_is_unread() {
        let (one, other) = pair();
        assert!(is_whole(&one) && is_whole(&other));
        send(&other, b"unread", None).unwrap();
        assert!(is_whole(&one));
        sever(&other);
        assert!(!is_whole(&one) && !is_whole(&other));

        let (one, other) = pair();
        send(&other, b"unread", None).unwrap();
        drop(other);
        assert!(!is_whole(&one));
        let mut read = [0; 10];
        assert_eq!(receive(&one, &mut read, &mut VecDeque::new()), Ok(6), "what came before is there still");
    }

    #[test]
    fn a_file_comes_with_the_bytes_it_was_sent_with() {
        let (one, other) = pair();
        let mut files = VecDeque::new();
        let null = std::fs::File::open("/dev/null").unwrap();
        send(&one, b"plain", None).unwrap();
        send(&one, b"file", Some(null.as_fd())).unwrap();
        let mut read = [0; 100];
        let mut all = Vec::new();
        while all.len() < 9 {
            let count = receive(&other, &mut read, &mut files).unwrap();
            all.extend_from_slice(&read[..count]);
        }
        assert_eq!((all.as_slice(), files.len()), (&b"plainfile"[..], 1));
    }

    #[test]
    fn what_an_earlier_life_left_is_replaced_and_a_living_one_is_not() {
        let path = std::env::temp_dir().join(format!("kvferry-socket-{}", std::process::id()));
        let address = Address::Path(path.clone());
        // As a process leaves it that is killed.
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::open(&address, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = Listener::open(&address, false).unwrap_err();
        assert!(listener.accept().unwrap().is_some(), "it has knocked to find out");
        assert!(error.to_string().contains("another process listens"), "{error}");
        let knocking = knock(&address).unwrap();
        let inside = listener.accept().unwrap().unwrap();
        let own = Credentials {
            uid: nix::unistd::geteuid().as_raw(),
            pid: i32::try_from(std::process::id()).unwrap(),
        };
        assert_eq!((credentials(&knocking).unwrap(), credentials(&inside).unwrap()), (own, own));
        assert!(listener.accept().unwrap().is_none());
        drop(listener);
        assert!(!path.exists());
    }
}
