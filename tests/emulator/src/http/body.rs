//! Response bodies: whole, produced while they are read, dripping, cut short, with a trailer.
//!
//! A produced body owns the work that fills it. Dropping the body (hyper does so when the client hangs up)
//! drops the work and with it everything the request holds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use super::io::ConnControl;

/// Any response body of the emulator.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The trailer of the `trailers` fault.
pub(crate) const TRAILER: HeaderName = HeaderName::from_static("x-emulator-trailer");

/// A body that is known already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("our own answers have string keys and finite numbers");
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body filled by `work` through the channel behind `receiver`.
pub(crate) fn produced(
    work: impl Future<Output = ()> + Send + 'static,
    receiver: mpsc::Receiver<Bytes>,
) -> Body {
    Produced { work: Some(Box::pin(work)), receiver }.boxed_unsync()
}

struct Produced {
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    receiver: mpsc::Receiver<Bytes>,
}

impl HttpBody for Produced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(work) = &mut self.work
            && work.as_mut().poll(cx).is_ready()
        {
            // Drops the sender too, so the channel ends after what it still holds.
            self.work = None;
        }
        let chunk = ready!(self.receiver.poll_recv(cx));
        Poll::Ready(chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Sends a body one byte at a time, `pause` apart.
pub(crate) fn drip(inner: Body, pause: Duration) -> Body {
    Drip { inner, pause, wait: None, rest: Bytes::new() }.boxed_unsync()
}

struct Drip {
    inner: Body,
    pause: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    rest: Bytes,
}

impl HttpBody for Drip {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if let Some(wait) = &mut this.wait {
            ready!(wait.as_mut().poll(cx));
            this.wait = None;
        }
        while this.rest.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => return Poll::Ready(end),
            }
        }
        this.wait = Some(Box::pin(sleep(this.pause)));
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(1)))))
    }

    fn size_hint(&self) -> SizeHint {
        // Exact only before the first byte, which is when hyper asks.
        if self.rest.is_empty() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

/// Time for the bytes before a reset to reach the client: a reset discards what still sits in our socket.
const FLUSH: Duration = Duration::from_millis(20);

/// Sends `keep` bytes of a body, then resets the connection.
pub(crate) fn cut(inner: Body, keep: usize, conn: Arc<ConnControl>) -> Body {
    Cut { inner, keep, conn, wait: None }.boxed_unsync()
}

struct Cut {
    inner: Body,
    keep: usize,
    conn: Arc<ConnControl>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for Cut {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.keep > 0 && this.wait.is_none() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let Ok(mut data) = frame.into_data() else {
                        return Poll::Ready(None);
                    };
                    data.truncate(this.keep);
                    this.keep -= data.len();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {}
            }
        }
        let wait = this.wait.get_or_insert_with(|| Box::pin(sleep(FLUSH)));
        ready!(wait.as_mut().poll(cx));
        this.conn.reset_on_close();
        Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())))
    }

    fn size_hint(&self) -> SizeHint {
        // The head promises the whole body; that it does not come is the fault.
        self.inner.size_hint()
    }
}

/// Adds a trailer after a body and makes it chunked.
pub(crate) fn with_trailer(inner: Body) -> Body {
    let mut trailers = HeaderMap::new();
    trailers.insert(TRAILER, HeaderValue::from_static("done"));
    Trailed { inner, last: Some(trailers) }.boxed_unsync()
}

struct Trailed {
    inner: Body,
    last: Option<HeaderMap>,
}

impl HttpBody for Trailed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            None => Poll::Ready(self.last.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            frame => Poll::Ready(frame),
        }
    }
}
