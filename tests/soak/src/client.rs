//! One connection of one client, over HTTP/1.1 or HTTP/2. Dropping it leaves at once, whatever runs on it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::Result;

/// The versions of HTTP that the sidecar's listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// A connection that can be used for several requests, one after the other.
pub(crate) struct Connection {
    to: SocketAddr,
    sender: Sender,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
    /// Whether only half of the body is ever sent.
    pub(crate) half: bool,
}

impl Connection {
    /// Connects. `receive_buffer`: its size in bytes, where it is to be small.
    ///
    /// # Errors
    /// Nobody listens, or the machine has no port left.
    pub(crate) async fn open(
        to: SocketAddr,
        protocol: Protocol,
        receive_buffer: Option<u32>,
    ) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        // Errors of a connection reach whoever waits for an answer on it.
        let (sender, driver) = match protocol {
            Protocol::Http1 => {
                let (sender, driver) = http1::handshake(io).await?;
                (Sender::Http1(sender), tokio::spawn(async { drop(driver.await) }))
            }
            Protocol::Http2 => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
                (Sender::Http2(sender), tokio::spawn(async { drop(driver.await) }))
            }
        };
        Ok(Self { to, sender, driver })
    }

    /// Whether the other side has closed it.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request and waits for the answer's head.
    ///
    /// # Errors
    /// The connection ended before.
    pub(crate) async fn send(&mut self, call: Call) -> Result<Answer, hyper::Error> {
        let request = self.request(call);
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        Ok(Answer(response))
    }

    fn request(&self, call: Call) -> Request<Upload> {
        let mut request = Request::new(Upload::new(call.body, call.half));
        *request.method_mut() = call.method;
        let uri = match self.sender {
            Sender::Http1(_) => call.path.to_owned(),
            Sender::Http2(_) => format!("http://{}{}", self.to, call.path),
        };
        *request.uri_mut() = uri.parse().expect("a path and an address make a URI");
        let headers = request.headers_mut();
        let host = HeaderValue::try_from(self.to.to_string()).expect("an address is a header value");
        headers.insert("host", host);
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        for (name, value) in call.headers {
            headers.insert(name, HeaderValue::try_from(value).expect("the plan's headers are header values"));
        }
        request
    }
}

/// An answer whose body is still to be read.
pub(crate) struct Answer(pub(crate) Response<Incoming>);

impl Answer {
    /// The next piece of the body, `None` at its end.
    ///
    /// # Errors
    /// The answer was broken off.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match self.0.frame().await? {
                Ok(frame) => {
                    // Trailers are of no interest here.
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// All of the body.
    ///
    /// # Errors
    /// The answer was broken off.
    pub(crate) async fn whole(mut self) -> Result<Vec<u8>, hyper::Error> {
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await {
            whole.extend_from_slice(&piece?);
        }
        Ok(whole)
    }
}

/// A request's body, or the half of it that a leaving client sends.
pub(crate) struct Upload {
    rest: Option<Bytes>,
    promised: u64,
    half: bool,
}

impl Upload {
    fn new(body: Bytes, half: bool) -> Self {
        let promised = body.len() as u64;
        let rest = if half { body.slice(..body.len() / 2) } else { body };
        Self { rest: Some(rest), promised, half }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        match this.rest.take() {
            Some(data) => {
                this.promised -= data.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            // The second half never comes, and nobody is woken for it.
            None if this.half => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && !self.half
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.promised)
    }
}
