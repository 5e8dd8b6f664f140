//! A client that follows HTTP: one request on a connection of its own, or several on one, over HTTP/1.1 or HTTP/2.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::{PREFILLER, within};

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Itself, if it is a success.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self
    }

    /// Checks that this is an error of the sidecar's own, whole and in the shape that vLLM's clients know.
    pub(crate) fn is_error(&self, status: u16, code: &str, message: &str) {
        assert_eq!((self.status.as_u16(), self.header("x-kvferry-error")), (status, code), "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
        let retry = if status >= 408 && status != 413 { "true" } else { "false" };
        assert_eq!(self.header("x-should-retry"), retry);
        let kind = match status {
            400 => "BadRequestError",
            408 => "RequestTimeout",
            413 => "RequestEntityTooLarge",
            502 => "BadGateway",
            503 => "ServiceUnavailable",
            504 => "GatewayTimeout",
            other => panic!("the sidecar has no error with status {other}"),
        };
        let body = self.json();
        let said = body["message"].as_str().unwrap();
        assert!(said.contains(message), "{message:?} is not in {said:?}");
        let shape = serde_json::json!(
            {"object": "error", "message": said, "type": kind, "param": "", "code": status});
        assert_eq!(body, shape);
    }
}

/// A request to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: body.into().into(),
        }
    }

    /// A POST of JSON.
    pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", path, body).header("content-type", "application/json")
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path, "")
    }

    /// Adds a header line.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        self.headers.push((name.parse().unwrap(), value));
        self
    }

    /// Names the prefill engine.
    pub(crate) fn prefill(self, target: &str) -> Self {
        self.header(PREFILLER, target)
    }

    fn request(self, to: SocketAddr, protocol: Protocol) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method);
        request = match protocol {
            Protocol::Http1 => request.uri(&self.path),
            Protocol::Http2 => request.uri(format!("http://{to}{}", self.path)),
        };
        let mut request = request.body(Full::new(self.body)).unwrap();
        for (name, value) in self.headers {
            request.headers_mut().append(name, value);
        }
        if protocol == Protocol::Http1 && !request.headers().contains_key("host") {
            let host = HeaderValue::try_from(to.to_string()).unwrap();
            request.headers_mut().insert("host", host);
        }
        request
    }

    /// Sends it on a connection of its own and reads the whole answer.
    pub(crate) async fn send(self, to: SocketAddr) -> Answer {
        self.try_send(to).await.unwrap()
    }

    /// Like [`Self::send`], for answers that may break off.
    pub(crate) async fn try_send(self, to: SocketAddr) -> Result<Answer, hyper::Error> {
        let path = self.path.clone();
        let work = async { self.open(to).await?.whole().await };
        within(&format!("an answer to {path}"), work).await
    }

    /// Sends it on a connection of its own and reads the answer's head.
    pub(crate) async fn open(self, to: SocketAddr) -> Result<Opened, hyper::Error> {
        let mut client = Client::connect(to, Protocol::Http1).await;
        let response = client.begin(self).await?;
        Ok(Opened::new(response, Some(client)))
    }
}

/// The versions of HTTP that the listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection for several requests. Dropping it leaves at once, whatever runs on it.
pub(crate) struct Client {
    to: SocketAddr,
    sender: Sender,
    connection: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr, protocol: Protocol) -> Self {
        let stream = within("a connection", TcpStream::connect(to)).await.unwrap();
        Self::over(stream, to, protocol).await
    }

    /// On a connection that is there already, to `to`.
    pub(crate) async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Self {
        let io = TokioIo::new(stream);
        // Errors of a connection reach whoever waits for an answer on it.
        let (sender, connection) = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.unwrap();
                (Sender::Http1(sender), tokio::spawn(async { drop(connection.await) }))
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                (Sender::Http2(sender), tokio::spawn(async { drop(connection.await) }))
            }
        };
        Self { to, sender, connection }
    }

    /// Sends a request and reads the answer's head. HTTP/1.1: the answer before must have been read to its end.
    pub(crate) async fn begin(&mut self, ask: Ask) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                within("the connection is free", sender.ready()).await?;
                let request = ask.request(self.to, Protocol::Http1);
                within("an answer's head", sender.send_request(request)).await
            }
            Sender::Http2(sender) => {
                let request = ask.request(self.to, Protocol::Http2);
                within("an answer's head", sender.send_request(request)).await
            }
        }
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn send(&mut self, ask: Ask) -> Answer {
        let response = self.begin(ask).await.unwrap();
        within("an answer", Opened::new(response, None).whole()).await.unwrap()
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }
}

/// An answer whose body is still to be read. Dropping it leaves.
pub(crate) struct Opened {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    _connection: Option<Client>,
}

impl Opened {
    pub(crate) fn new(response: Response<Incoming>, connection: Option<Client>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body, _connection: connection }
    }

    /// The next data as it arrived; `None` at the end.
    pub(crate) async fn data(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match within("more of the answer", self.body.frame()).await? {
                Err(error) => return Some(Err(error)),
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => {}
                },
            }
        }
    }

    /// Reads until `text` has come; returns all that was read.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut read = BytesMut::new();
        while !String::from_utf8_lossy(&read).contains(text) {
            match self.data().await {
                Some(data) => read.extend_from_slice(&data.unwrap()),
                None => panic!("ended without {text:?}: {}", String::from_utf8_lossy(&read)),
            }
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Reads to the end: how many bytes came, and whether the answer says that it is complete.
    pub(crate) async fn end(&mut self) -> (usize, bool) {
        let mut read = 0;
        let all = async {
            loop {
                match self.data().await {
                    Some(Ok(data)) => read += data.len(),
                    end => return end.is_none(),
                }
            }
        };
        let complete = within("the end of the answer", all).await;
        (read, complete)
    }

    /// The rest of the answer.
    pub(crate) async fn whole(self) -> Result<Answer, hyper::Error> {
        let collected = within("the rest of the answer", self.body.collect()).await?;
        let trailers = collected.trailers().cloned();
        Ok(Answer { status: self.status, headers: self.headers, body: collected.to_bytes(), trailers })
    }
}
