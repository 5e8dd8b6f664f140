//! One client connection: HTTP/1.1 or HTTP/2, told apart by its first bytes.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kvferry_tls::{ListenerTls, Protocol};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::interim::{Interim, Waiting};
use super::watch::{Activity, Serving, Watchdog};
use crate::exchange::AnswerBody;
use crate::service;
use crate::worker::{Rank, Worker};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Largest request head in bytes (spec/sidecar.md 5). Also bounds how much of a body is read ahead.
const MAX_HEAD: u32 = 1024 * 1024;

/// Most header fields of an HTTP/1.1 request. Gateways and tracing add dozens; the sidecar we replace counts bytes only.
const MAX_FIELDS: usize = 512;

/// Requests in one HTTP/2 connection at once; a gateway opens another connection for more.
const MAX_STREAMS: u32 = 1024;

/// Serves one client until it leaves or is to end. `drain`: finish what runs, then close.
pub async fn serve(
    worker: Arc<Worker>,
    rank: Arc<Rank>,
    dog: Arc<Watchdog>,
    stream: TcpStream,
    client: SocketAddr,
    drain: CancellationToken,
    abort: CancellationToken,
) {
    let watched = dog.watch();
    let late = watched.end();
    let connection =
        Connection { worker, rank, client, activity: Arc::clone(&watched.activity), late, drain, abort };
    // Boxed, here and below: a task keeps room for the largest of its branches for as long as it lives, and what a
    // connection begins with is the largest and over soon.
    match connection.worker.settings.listener_tls.clone() {
        None => {
            let framed = Box::pin(connection.unless_over(speaks_http2(&stream))).await;
            if let Some(framed) = framed {
                Box::pin(connection.speak(stream, framed)).await;
            }
        }
        Some(tls) => Box::pin(connection.speak_tls(tls, stream)).await,
    }
}

/// What every part of serving a connection needs.
struct Connection {
    worker: Arc<Worker>,
    rank: Arc<Rank>,
    client: SocketAddr,
    activity: Arc<Activity>,
    /// The watchdog has had enough of it.
    late: CancellationToken,
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Connection {
    /// The result of `work`, unless the connection is over before.
    async fn unless_over<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.late.cancelled() => None,
            () = self.drain.cancelled() => None,
        }
    }

    /// Speaks what the TLS handshake has agreed on.
    async fn speak_tls(self, tls: ListenerTls, stream: TcpStream) {
        match Box::pin(self.unless_over(tls.accept(stream))).await {
            Some(Ok(stream)) => {
                let framed = Protocol::of(&stream) == Protocol::Http2;
                Box::pin(self.speak(stream, framed)).await;
            }
            Some(Err(error)) => tracing::debug!(client = %self.client, %error, "TLS handshake failed"),
            None => {}
        }
    }

    /// Speaks HTTP/2 (`framed`) or HTTP/1.1.
    async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, stream: S, framed: bool) {
        let Self { worker, rank, client, activity, late, drain, abort } = self;
        let waiting = Arc::new(Waiting::default());
        let io =
            ClientIo { stream, activity: Arc::clone(&activity), waiting: Arc::clone(&waiting), clean: true };
        let service = service_fn(|request: http::Request<Incoming>| {
            let (worker, rank) = (Arc::clone(&worker), Arc::clone(&rank));
            let (waiting, serving) = (Arc::clone(&waiting), activity.begin());
            let takes_interim = request.version() == Version::HTTP_11;
            async move {
                let interim = if takes_interim {
                    let waker = std::future::poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
                    Some(Interim::new(waiting, waker))
                } else {
                    None
                };
                // Boxed: the HTTP library keeps room for this future as long as the connection lives, so it had better
                // be small. What serving needs is given back when the answer begins to flow.
                let response = Box::pin(service::serve(worker, rank, client.ip(), interim, request)).await;
                Ok::<Response<ServedBody>, Infallible>(
                    response.map(|body| ServedBody { body, _serving: serving }),
                )
            }
        });
        if framed {
            activity.is_framed();
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(MAX_HEAD)
                .max_concurrent_streams(MAX_STREAMS)
                .adaptive_window(true);
            let mut connection = Box::pin(builder.serve_connection(TokioIo::new(io), service));
            drive(connection.as_mut(), late, drain, abort).await;
        } else {
            // The watchdog bounds how long heads take; the library's own timer would be set for every request and would
            // end idle connections much too early.
            let mut builder = http1::Builder::new();
            builder
                .header_read_timeout(None)
                .max_buf_size(MAX_HEAD as usize)
                .max_header_size(MAX_HEAD as usize)
                .max_headers(MAX_FIELDS);
            let mut connection =
                Box::pin(builder.serve_connection(TokioIo::new(io), service).with_upgrades());
            drive(connection.as_mut(), late, drain, abort).await;
        }
    }
}

/// Whether the client begins with HTTP/2's preface: no method of HTTP/1 starts like it.
///
/// The bytes are only looked at. Taken out and handed to the HTTP library as a first small read they would make it double
/// its buffer, on every connection.
async fn speaks_http2(stream: &TcpStream) -> bool {
    /// Between two looks at a client that sends its first three bytes one by one.
    const PAUSE: Duration = Duration::from_millis(5);
    /// After these many looks HTTP/1 gets it, which also notices when such a client leaves.
    const LOOKS: u32 = 200;
    let mut first = [0; 3];
    for _ in 0..LOOKS {
        match stream.peek(&mut first).await {
            Ok(read) if read > 0 && read < first.len() && b"PRI".starts_with(&first[..read]) => {
                tokio::time::sleep(PAUSE).await;
            }
            Ok(read) => return read == first.len() && &first == b"PRI",
            // The library will meet the same error.
            Err(_) => return false,
        }
    }
    false
}

/// A connection that can be asked to end after what it is doing.
trait Graceful: Future {
    fn finish(self: Pin<&mut Self>);
}

impl<I, S> Graceful for http1::UpgradeableConnection<TokioIo<ClientIo<I>>, S>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = ServedBody>,
    S::Error: Into<BoxError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S> Graceful for http2::Connection<TokioIo<ClientIo<I>>, S, TokioExecutor>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = ServedBody>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs a connection to its end, or until it is to end.
async fn drive(
    mut connection: Pin<&mut impl Graceful>,
    late: CancellationToken,
    drain: CancellationToken,
    abort: CancellationToken,
) {
    tokio::select! {
        // A broken connection concerns nobody else; what it carried was dropped, and that is how requests learn of it.
        _ = &mut connection => return,
        () = late.cancelled() => return,
        () = abort.cancelled() => return,
        () = drain.cancelled() => connection.as_mut().finish(),
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
    type Error = BoxError;

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
struct ClientIo<S> {
    stream: S,
    activity: Arc<Activity>,
    waiting: Arc<Waiting>,
    /// The HTTP library has nothing left to write: the last thing it did was flush.
    clean: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ClientIo<S> {
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
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
