//! An engine that does exactly what a test writes down, byte by byte, for what no decent engine does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    /// Request line and header lines.
    pub(crate) head: String,
    /// Without its transfer coding.
    pub(crate) body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
}

impl Received {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A request, and the connection to answer on.
pub(crate) struct Exchange {
    pub(crate) request: Received,
    socket: TcpStream,
}

impl Exchange {
    /// Sends bytes as they are.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        // Who asked may have left; the test sees that elsewhere.
        let _ = self.socket.write_all(bytes.as_ref()).await;
    }

    /// Sends bytes and closes, so that the other side sees the last byte and the end at once.
    pub(crate) async fn last(mut self, bytes: impl AsRef<[u8]>) {
        // Nothing leaves a corked socket until it is closed, which the end then goes with.
        SockRef::from(&self.socket).set_tcp_cork(true).unwrap();
        self.write(bytes).await;
    }

    /// Waits until the other side has closed the connection.
    pub(crate) async fn left(&mut self) {
        let mut rest = [0; 64];
        while let Ok(1..) = self.socket.read(&mut rest).await {}
    }
}

/// A running script.
pub(crate) struct Scripted {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Received>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Scripted {
    /// Calls `script` with every request. It returns the exchange to go on with the connection, or drops it to close.
    pub(crate) async fn start<W>(script: impl Fn(Exchange) -> W + Send + Sync + 'static) -> Self
    where
        W: Future<Output = Option<Exchange>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, script) = (Arc::clone(&requests), Arc::new(script));
        let accepting = tokio::spawn(async move {
            for connection in 0.. {
                let (mut socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                tokio::spawn(async move {
                    while let Some(request) = receive(&mut socket, connection).await {
                        seen.lock().unwrap().push(request.clone());
                        match script(Exchange { request, socket }).await {
                            Some(exchange) => socket = exchange.socket,
                            None => return,
                        }
                    }
                });
            }
        });
        Self { address, requests, accepting }
    }

    /// One that gives every request the same answer.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut exchange| {
            let answer = Arc::clone(&answer);
            async move {
                exchange.write(&*answer).await;
                Some(exchange)
            }
        })
        .await
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn host_port(&self) -> String {
        self.address.to_string()
    }

    /// What came so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }
}

async fn receive(socket: &mut TcpStream, connection: usize) -> Option<Received> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let mut request = Received { head: String::from_utf8(head).unwrap(), body: Vec::new(), connection };
    if request.header("transfer-encoding").is_some() {
        loop {
            let mut size = Vec::new();
            while !size.ends_with(b"\r\n") {
                size.push(socket.read_u8().await.ok()?);
            }
            let size = std::str::from_utf8(&size).unwrap().trim();
            let size = usize::from_str_radix(size, 16).unwrap();
            let mut data = vec![0; size + 2];
            socket.read_exact(&mut data).await.ok()?;
            if size == 0 {
                return Some(request);
            }
            request.body.extend_from_slice(&data[..size]);
        }
    }
    let length = request.header("content-length").map_or(0, |text| text.parse().unwrap());
    request.body = vec![0; length];
    socket.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

/// A whole JSON answer.
pub(crate) fn json_answer(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The head of a stream of events; its body follows as [`chunk`]s.
pub(crate) fn sse_head() -> &'static str {
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
}

/// A piece of a chunked body; an empty one ends it.
pub(crate) fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}
