//! What the loop waits for besides orders, mail and time: fabrics with events, and agents that connect.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::task::Poll;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};

/// Listens there.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Waits for a fabric's events.
#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that show one descriptor now and another later; OwnedFd does not"
)]
pub(super) fn watched(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// The number of a fabric that has events: the first from `next` on, which is set to the one behind it, so that a busy one
/// does not keep the others waiting.
pub(super) async fn readable(fds: &[AsyncFd<OwnedFd>], next: &mut usize) -> usize {
    poll_fn(|context| {
        for index in (*next..fds.len()).chain(0..*next) {
            if let Poll::Ready(Ok(mut ready)) = fds[index].poll_read_ready(context) {
                // Before its events are taken: one that comes afterwards makes it readable anew.
                ready.clear_ready();
                *next = (index + 1) % fds.len();
                return Poll::Ready(index);
            }
        }
        Poll::Pending
    })
    .await
}

/// The next who connects. While the process has no descriptors left, nobody can.
pub(super) async fn newcomer(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    }
}
