//! A client below HTTP: sends any bytes, half of a request, and leaves when it likes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// A bare connection. Dropping it leaves.
pub(crate) struct Raw {
    socket: TcpStream,
    /// Read, but not yet asked for.
    ahead: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let socket = within("a connection", TcpStream::connect(to)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket, ahead: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        within("writing", self.socket.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes what the other side takes; whether it took everything.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within("writing", self.socket.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Says that nothing more will come, and goes on reading.
    pub(crate) async fn finish_writing(&mut self) {
        // The other side may have closed already.
        let _ = self.socket.shutdown().await;
    }

    /// Reads up to and with `end`; what came behind it is kept for the next call.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = memchr::memmem::find(&self.ahead, end.as_bytes()) {
                let rest = self.ahead.split_off(at + end.len());
                let read = std::mem::replace(&mut self.ahead, rest);
                return String::from_utf8(read).unwrap();
            }
            let so_far = String::from_utf8_lossy(&self.ahead).into_owned();
            let what = format!("{end:?} after {so_far:?}");
            match within(&what, self.socket.read_buf(&mut self.ahead)).await {
                Ok(1..) => {}
                end => panic!("the connection ended ({end:?}) before {what}"),
            }
        }
    }

    /// The next so many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            let read = within("more bytes", self.socket.read_buf(&mut self.ahead)).await;
            assert!(matches!(read, Ok(1..)), "the connection ended ({read:?})");
        }
        let rest = self.ahead.split_off(count);
        std::mem::replace(&mut self.ahead, rest)
    }

    /// The next response head, with its empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything until the other side closes. A reset counts as an end: what came before it came.
    pub(crate) async fn rest(&mut self) -> String {
        loop {
            let read = within("the connection ends", self.socket.read_buf(&mut self.ahead)).await;
            if matches!(read, Ok(0) | Err(_)) {
                let all = std::mem::take(&mut self.ahead);
                return String::from_utf8_lossy(&all).into_owned();
            }
        }
    }
}
