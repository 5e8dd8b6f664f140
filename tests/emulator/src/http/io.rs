//! A TCP stream that can be told to misbehave below HTTP: to reset instead of closing, and to send bytes that
//! hyper would never write.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a request's handler may ask of the connection it came on.
#[derive(Default)]
pub(crate) struct ConnControl {
    reset: AtomicBool,
    injecting: AtomicBool,
    inject: Mutex<Injection>,
}

#[derive(Default)]
struct Injection {
    bytes: Vec<u8>,
    then_close: bool,
}

impl ConnControl {
    /// The connection will end with a reset, whoever closes it.
    pub(crate) fn reset_on_close(&self) {
        self.reset.store(true, Relaxed);
    }

    /// Sends `bytes` before anything that hyper writes from now on.
    pub(crate) fn inject(&self, bytes: &[u8]) {
        self.set(bytes, false);
    }

    /// Sends `bytes` in place of what hyper writes next, then closes.
    pub(crate) fn replace(&self, bytes: &[u8]) {
        self.set(bytes, true);
    }

    fn set(&self, bytes: &[u8], then_close: bool) {
        *self.inject.lock().unwrap_or_else(PoisonError::into_inner) =
            Injection { bytes: bytes.to_vec(), then_close };
        self.injecting.store(true, Relaxed);
    }
}

/// The stream of one connection.
pub(crate) struct FaultStream {
    socket: TcpStream,
    control: std::sync::Arc<ConnControl>,
}

impl FaultStream {
    pub(crate) fn new(socket: TcpStream, control: std::sync::Arc<ConnControl>) -> Self {
        Self { socket, control }
    }

    /// Writes out pending injected bytes; an error when the connection must close after them.
    fn poll_injection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.control.injecting.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        let mut injection = self.control.inject.lock().unwrap_or_else(PoisonError::into_inner);
        while !injection.bytes.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &injection.bytes))?;
            injection.bytes.drain(..written);
        }
        if injection.then_close {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.control.injecting.store(false, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for FaultStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for FaultStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_injection(cx))?;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_injection(cx))?;
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.reset.load(Relaxed) {
            // A FIN now would let the peer see a clean end before the reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for FaultStream {
    fn drop(&mut self) {
        if self.control.reset.load(Relaxed) {
            // Zero linger turns the close that follows into a reset.
            let _ = SockRef::from(&self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}
