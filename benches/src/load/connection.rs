//! One keep-alive connection of the load generator: written request, parsed response, nothing in between that would
//! cost time the proxies need. It is hand-written because a general client costs as much as the proxy it would measure.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::parser::Response;

/// Bytes asked for in one read. All connections of the thread share the buffer: a buffer each would make 2,000 of
/// them compete with the proxies for the processor's cache.
const READ_BYTES: usize = 128 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What a read brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// A complete SSE frame, without its blank line.
    pub(super) frame: &'a [u8],
    /// How many frames the same read had completed before this one.
    pub(super) joined_to: u32,
}

/// A complete response, as far as the load cares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    /// Status code.
    pub(super) status: u16,
    /// Whether it was a server-sent event stream.
    pub(super) event_stream: bool,
    /// Whether the body begins and ends like a JSON object.
    pub(super) json_object: bool,
    /// When the first byte of the body's first frame, or of the body, was read.
    pub(super) first_byte: Instant,
    /// When the last byte was read.
    pub(super) end: Instant,
}

/// A connection that is opened when first used and again whenever the other side has closed it.
#[derive(Debug)]
pub(super) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// How often a connection was opened.
    pub(super) opened: u64,
}

impl Connection {
    /// A connection to `address`, not opened yet.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None, opened: 0 }
    }

    /// Sends one whole request and reads one whole response; `observe` sees each SSE frame as it arrives.
    ///
    /// # Errors
    /// With what the proxy did wrong, in words. The connection is given up then.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
        observe: &mut impl FnMut(Arrival<'_>),
    ) -> Result<Answer, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open().await?,
        };
        stream.write_all(request).await.map_err(|error| format!("send: {error}"))?;
        let mut response = Response::default();
        let mut first_byte = None;
        while !response.done() {
            let at = read_into(&mut stream, &mut response, observe).await?;
            if response.body_bytes > 0 {
                first_byte.get_or_insert(at);
            }
        }
        let end = Instant::now();
        if response.keep_alive {
            self.stream = Some(stream);
        }
        Ok(Answer {
            status: response.status,
            event_stream: response.event_stream,
            json_object: response.looks_like_json_object(),
            first_byte: first_byte.unwrap_or(end),
            end,
        })
    }

    async fn open(&mut self) -> Result<TcpStream, String> {
        let describe = |error: std::io::Error| format!("connect to {}: {error}", self.address);
        let stream = TcpStream::connect(self.address).await.map_err(describe)?;
        stream.set_nodelay(true).map_err(describe)?;
        self.opened += 1;
        Ok(stream)
    }
}

/// One read from the connection into the response; tells when it was.
async fn read_into(
    stream: &mut TcpStream,
    response: &mut Response,
    observe: &mut impl FnMut(Arrival<'_>),
) -> Result<Instant, String> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
            let at = Instant::now();
            Poll::Ready(match read {
                Err(error) => Err(format!("receive: {error}")),
                Ok(()) if buffer.filled().is_empty() => response.closed().map(|()| at),
                Ok(()) => {
                    let mut joined_to = 0;
                    let mut frame = |frame: &[u8]| {
                        observe(Arrival { frame, joined_to });
                        joined_to += 1;
                    };
                    response.feed(buffer.filled(), &mut frame).map(|()| at)
                }
            })
        })
    })
    .await
}
