//! One client connection: HTTP/1.1 or HTTP/2, told apart by its first bytes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::interim::{Interim, Waiting};
use super::watch::{Activity, Serving, Watchdog};
use crate::exchange::AnswerBody;
use crate::service;
use crate::worker::Worker;

/// Largest request head in bytes (spec/sidecar.md 5). Also bounds how much of a body is read ahead.
const MAX_HEAD: u32 = 1024 * 1024;

/// Requests in one HTTP/2 connection at once; a gateway opens another connection for more.
const MAX_STREAMS: u32 = 1024;

/// Serves one client until it leaves or is to end. `drain`: finish what runs, then close.
pub async fn serve(
    worker: Arc<Worker>,
    dog: Arc<Watchdog>,
    stream: TcpStream,
    client: SocketAddr,
    drain: CancellationToken,
    abort: CancellationToken,
) {
    let watched = dog.watch();
    let waiting = Arc::new(Waiting::default());
    let activity = Arc::clone(&watched.activity);
    let io = ClientIo {
        stream,
        activity: Arc::clone(&activity),
        waiting: Arc::clone(&waiting),
        clean: true,
        read: 0,
    };

    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let (worker, waiting, serving) = (Arc::clone(&worker), Arc::clone(&waiting), activity.begin());
        let framed = request.version() == Version::HTTP_2;
        if framed {
            activity.is_framed();
        }
        let takes_interim = request.version() == Version::HTTP_11;
        async move {
            let interim = if takes_interim {
                let waker = std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
                Some(Interim::new(waiting, waker))
            } else {
                None
            };
            let response = service::serve(worker, client.ip(), interim, request).await;
            Ok::<Response<ServedBody>, Infallible>(response.map(|body| ServedBody {
                body,
                _serving: serving,
            }))
        }
    });

    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The watchdog bounds how long heads take; the library's own timer would be set for every request and would end
    // idle connections much too early.
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_streams(MAX_STREAMS)
        .adaptive_window(true);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let late = watched.end();

    tokio::select! {
        // A broken connection concerns nobody else; what it carried was dropped, and that is how requests learn of it.
        _ = &mut connection => return,
        () = late.cancelled() => return,
        () = abort.cancelled() => return,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = &mut connection => {}
        () = late.cancelled() => {}
        () = abort.cancelled() => {}
    }
}

/// An answer's body that keeps its connection marked as busy.
struct ServedBody {
    body: AnswerBody,
    _serving: Serving,
}

impl Body for ServedBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket, watched, and with a way to write 1xx answers between two responses.
struct ClientIo {
    stream: TcpStream,
    activity: Arc<Activity>,
    waiting: Arc<Waiting>,
    /// The HTTP library has nothing left to write: the last thing it did was flush.
    clean: bool,
    /// Bytes read, up to the length of HTTP/2's preface.
    read: usize,
}

impl ClientIo {
    /// Writes what waits. Ready when nothing does any more.
    fn write_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, waiting, .. } = self;
        waiting.write(|bytes| {
            while !bytes.is_empty() {
                let written = ready!(Pin::new(&mut *stream).poll_write(cx, bytes))?;
                bytes.drain(..written);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Before the library's own bytes: what waits goes first if we stand between two responses, else never.
    fn before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.any() {
            if self.clean {
                ready!(self.write_waiting(cx))?;
            } else {
                self.waiting.write(Vec::clear);
            }
        }
        self.clean = false;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            self.activity.heard();
            if self.read == 0 && new.len() >= PREFACE.len() && new.starts_with(PREFACE) {
                self.activity.is_framed();
            }
            self.read = (self.read + new.len()).min(PREFACE.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.before_write(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.any() {
            ready!(self.write_waiting(cx))?;
        }
        self.clean = true;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
