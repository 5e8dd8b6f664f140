//! HTTP/1.1 responses, read without sockets: bytes in, frames and the end of the message out. It understands just what
//! proxies and engines send (lengths, chunks, until-close) and refuses the rest, so that a broken proxy cannot score.

use memchr::memchr_iter;

/// The longest response head that is accepted, bytes; real ones are under 1 KiB, so more is a runaway.
const MAX_HEAD: usize = 64 * 1024;

/// The most headers in a response head.
const MAX_HEADERS: usize = 64;

/// The longest SSE frame that is put together from pieces, bytes: many times a token's frame.
const MAX_FRAME: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize { size: u64, extension: bool },
    Chunk(u64),
    ChunkEnd,
    Trailer { line: usize },
    UntilClose,
    Done,
}

/// One response as it comes in.
#[derive(Debug)]
pub(super) struct Response {
    state: State,
    /// Head bytes while it is incomplete, then the piece of a frame that waits for its end.
    held: Vec<u8>,
    /// Status code; 0 until the head is complete.
    pub(super) status: u16,
    /// Body bytes so far, without chunk framing.
    pub(super) body_bytes: u64,
    /// Whether the body is a server-sent event stream.
    pub(super) event_stream: bool,
    /// Whether the connection can carry another request afterwards.
    pub(super) keep_alive: bool,
    first_byte: u8,
    last_byte: u8,
}

impl Default for Response {
    fn default() -> Self {
        Self {
            state: State::Head,
            held: Vec::new(),
            status: 0,
            body_bytes: 0,
            event_stream: false,
            keep_alive: true,
            first_byte: 0,
            last_byte: 0,
        }
    }
}

impl Response {
    /// Whether the message is complete.
    pub(super) fn done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether the body looks like one whole JSON object, as far as its two ends tell.
    pub(super) fn looks_like_json_object(&self) -> bool {
        self.first_byte == b'{' && self.last_byte == b'}'
    }

    /// Takes the next bytes of the connection; `frame` is called with each complete SSE frame, without its blank line.
    ///
    /// # Errors
    /// When the bytes are no HTTP/1.1 response, or go on behind its end.
    pub(super) fn feed(&mut self, mut input: &[u8], frame: &mut impl FnMut(&[u8])) -> Result<(), String> {
        while !input.is_empty() {
            input = match self.state {
                State::Head => self.head(input)?,
                State::Length(left) => {
                    let now = take(input, left);
                    self.body(now, frame)?;
                    let left = left - now.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    &input[now.len()..]
                }
                State::ChunkSize { size, extension } => self.chunk_size(input, size, extension)?,
                State::Chunk(left) => {
                    let now = take(input, left);
                    self.body(now, frame)?;
                    let left = left - now.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    &input[now.len()..]
                }
                State::ChunkEnd => {
                    match input[0] {
                        b'\r' => {}
                        b'\n' => self.state = State::ChunkSize { size: 0, extension: false },
                        other => return Err(format!("chunk is followed by byte {other:#04x}")),
                    }
                    &input[1..]
                }
                State::Trailer { line } => {
                    match input[0] {
                        b'\r' => {}
                        b'\n' if line == 0 => self.state = State::Done,
                        b'\n' => self.state = State::Trailer { line: 0 },
                        _ => self.state = State::Trailer { line: line + 1 },
                    }
                    &input[1..]
                }
                State::UntilClose => {
                    self.body(input, frame)?;
                    &[]
                }
                State::Done => return Err(format!("{} bytes behind the end of the response", input.len())),
            };
        }
        Ok(())
    }

    /// The connection ended.
    ///
    /// # Errors
    /// When it ended before the response did.
    pub(super) fn closed(&mut self) -> Result<(), String> {
        match self.state {
            State::UntilClose => {
                self.keep_alive = false;
                self.state = State::Done;
                Ok(())
            }
            State::Head if self.held.is_empty() => Err("connection closed without a response".to_owned()),
            _ => Err(format!("connection closed inside a response, after {} body bytes", self.body_bytes)),
        }
    }

    fn head<'a>(&mut self, input: &'a [u8]) -> Result<&'a [u8], String> {
        let before = self.held.len();
        self.held.extend_from_slice(&input[..input.len().min(MAX_HEAD)]);
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let length = match parsed.parse(&self.held) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.held.len() < MAX_HEAD => return Ok(&[]),
            Ok(httparse::Status::Partial) => return Err(format!("response head over {MAX_HEAD} bytes")),
            Err(error) => return Err(format!("response head: {error}")),
        };
        self.status = parsed.code.unwrap_or(0);
        let mut next = State::UntilClose;
        let mut chunked = false;
        for header in parsed.headers.iter() {
            let value = header.value.trim_ascii();
            if header.name.eq_ignore_ascii_case("content-length") && !chunked {
                let text = std::str::from_utf8(value).map_err(|_| "content-length is not text".to_owned())?;
                next = State::Length(text.parse().map_err(|_| format!("content-length `{text}`"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = true;
                next = State::ChunkSize { size: 0, extension: false };
            } else if header.name.eq_ignore_ascii_case("connection") {
                self.keep_alive &= !value.eq_ignore_ascii_case(b"close");
            } else if header.name.eq_ignore_ascii_case("content-type") {
                self.event_stream = value.starts_with(b"text/event-stream");
            }
        }
        self.held.clear();
        // 1xx is not the answer; 204 and 304 have no body whatever their headers say.
        self.state = match (self.status, next) {
            (100..=199, _) => State::Head,
            (204 | 304, _) | (_, State::Length(0)) => State::Done,
            (_, next) => next,
        };
        Ok(&input[length - before..])
    }

    fn chunk_size<'a>(&mut self, input: &'a [u8], size: u64, extension: bool) -> Result<&'a [u8], String> {
        self.state = match input[0] {
            b'\n' if size == 0 => State::Trailer { line: 0 },
            b'\n' => State::Chunk(size),
            b'\r' => State::ChunkSize { size, extension },
            b';' => State::ChunkSize { size, extension: true },
            _ if extension => State::ChunkSize { size, extension },
            digit => {
                let digit = char::from(digit).to_digit(16).ok_or("chunk size is not hexadecimal")?;
                let size = size.checked_mul(16).ok_or("chunk size over 64 bits")? + u64::from(digit);
                State::ChunkSize { size, extension }
            }
        };
        Ok(&input[1..])
    }

    fn body(&mut self, piece: &[u8], frame: &mut impl FnMut(&[u8])) -> Result<(), String> {
        if self.body_bytes == 0 {
            self.first_byte = piece[0];
        }
        self.body_bytes += piece.len() as u64;
        if let Some(&last) = piece.iter().rev().find(|byte| !byte.is_ascii_whitespace()) {
            self.last_byte = last;
        }
        if self.event_stream { self.frames(piece, frame) } else { Ok(()) }
    }

    /// Cuts `piece` at blank lines. A frame that lies in one piece, the usual case, is not copied.
    fn frames(&mut self, piece: &[u8], frame: &mut impl FnMut(&[u8])) -> Result<(), String> {
        let mut start = 0;
        let mut previous = if self.held.last() == Some(&b'\n') { Some(-1) } else { None };
        for end in memchr_iter(b'\n', piece) {
            let position = isize::try_from(end).expect("a slice is never longer than isize::MAX");
            if previous == Some(position - 1) {
                if self.held.is_empty() {
                    frame(&piece[start..end - 1]);
                } else {
                    self.held.extend_from_slice(&piece[start..end]);
                    self.held.pop();
                    frame(&self.held);
                    self.held.clear();
                }
                start = end + 1;
                previous = None;
            } else {
                previous = Some(position);
            }
        }
        self.held.extend_from_slice(&piece[start..]);
        if self.held.len() > MAX_FRAME {
            return Err(format!("SSE frame over {MAX_FRAME} bytes"));
        }
        Ok(())
    }
}

fn take(input: &[u8], left: u64) -> &[u8] {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    &input[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n\
        b\r\ndata: {\"a\"}\r\n2;x=y\r\n\n\n\r\n1A\r\ndata: 2\ndata: 3\n\ndata: 4\n\n\r\n0\r\nx-t: 1\r\n\r\n";

    fn read(bytes: &[u8], step: usize) -> (Response, Vec<String>) {
        let mut response = Response::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(step) {
            response
                .feed(piece, &mut |frame: &[u8]| {
                    frames.push(String::from_utf8_lossy(frame).into_owned());
                })
                .unwrap();
        }
        (response, frames)
    }

    #[test]
    fn frames_are_the_same_however_the_bytes_are_cut() {
        for step in 1..=STREAM.len() {
            let (response, frames) = read(STREAM, step);
            assert!(response.done(), "step {step}");
            assert_eq!(frames, ["data: {\"a\"}", "data: 2\ndata: 3", "data: 4"], "step {step}");
            assert_eq!(response.body_bytes, 39, "step {step}");
        }
    }

    #[test]
    fn a_body_with_a_length_ends_there_and_a_second_response_is_refused() {
        let message = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\":1}\n";
        let (mut response, _) = read(message, 7);
        assert!(response.done() && response.keep_alive && response.looks_like_json_object());
        assert!(response.feed(b"H", &mut |_: &[u8]| ()).is_err());
    }

    #[test]
    fn informational_responses_are_skipped() {
        let message = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        let (response, _) = read(message, message.len());
        assert!(response.done());
        assert_eq!(response.status, 204);
    }

    #[test]
    fn close_ends_a_body_without_length_but_breaks_one_with_a_length() {
        let (mut response, _) = read(b"HTTP/1.1 200 OK\r\n\r\nabc", 4);
        assert!(!response.done());
        response.closed().unwrap();
        assert!(response.done() && !response.keep_alive);
        let (mut response, _) = read(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", 4);
        assert!(response.closed().unwrap_err().contains("after 3 body bytes"));
    }

    #[test]
    fn garbage_is_no_response() {
        let mut response = Response::default();
        assert!(response.feed(b"SSH-2.0-x\r\n\r\n", &mut |_: &[u8]| ()).is_err());
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
        assert!(Response::default().feed(chunked, &mut |_: &[u8]| ()).is_err());
    }
}
