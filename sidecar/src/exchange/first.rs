//! Decode first: the decode engine is asked before any prefill, and its answer is held until it is known whether it
//! is one (spec/sidecar.md 3.3).
//!
//! An engine that finds too little of the prompt in its caches says so in its answer instead of computing. Of that
//! answer nothing may reach the client, neither bytes nor headers nor interim responses (12.7). An answer that cannot be
//! understood is passed on as it is: it is the engine's own, and a client may know what to do with it.

use std::sync::Arc;

use bytes::BytesMut;
use http_body_util::BodyExt;
use kvferry_handoff::Leg;
use memchr::memchr;

use super::answer::is_event_stream;
use super::held::Held;
use super::inflate::{Inflater, is_gzip};
use super::legs::{DecodeEnd, LegRequest};
use super::read::MAX_WHOLE_ANSWER;
use crate::connector::{First, Outgoing};
use crate::error::Error;
use crate::upstream::{Upstream, broken};

/// Events of a stream that are looked at. The engine says in the first that it declines; one before it may hold only
/// the role.
const EVENTS: usize = 2;

/// Most of a stream that is held, in bytes; a stream whose first events are larger is an answer.
const MAX_HELD_EVENTS: usize = 256 * 1024;

/// Sends `leg`, which is the client's own body, to the decode engine. Ends when the answer is refused, declined or begun.
pub(super) async fn attempt(
    upstream: Upstream,
    request: Arc<LegRequest>,
    leg: Outgoing,
    first: First,
) -> DecodeEnd {
    let decoder = Arc::clone(&request.rank.decoder);
    let failed =
        |how| DecodeEnd::Failed(Error::LegBroken { leg: Leg::Decode, target: decoder.to_string(), how });
    let mut sent = match upstream.send(&decoder, || request.to(&leg)).await {
        Ok(sent) => sent,
        Err(how) => return failed(how),
    };
    if !sent.response.status().is_success() {
        return DecodeEnd::Refused(sent);
    }
    let headers = sent.response.headers();
    let mut look = Look::new(first, is_event_stream(headers));
    let mut inflater = is_gzip(headers).then(Inflater::new);
    let mut held = Held::default();
    let answers = loop {
        let frame = match sent.response.body_mut().frame().await {
            None if look.end() => break true,
            None => {
                sent.lease.recycle();
                return DecodeEnd::Declined;
            }
            Some(Err(error)) => return failed(broken(&error)),
            Some(Ok(frame)) => frame,
        };
        let seen = match (frame.data_ref(), &mut inflater) {
            (None, _) => None,
            (Some(data), None) => look.data(data),
            (Some(data), Some(inflater)) => {
                inflater.feed(data.clone());
                loop {
                    match inflater.step() {
                        Ok(None) => break None,
                        Ok(Some(plain)) => match look.data(&plain) {
                            None => {}
                            seen => break seen,
                        },
                        // Nobody can read this; the client may see for itself.
                        Err(_) => break Some(true),
                    }
                }
            }
        };
        held.push(frame);
        if let Some(answers) = seen {
            break answers;
        }
    };
    if answers { DecodeEnd::Held(sent, held) } else { DecodeEnd::Declined }
}

/// Looks at the beginning of an answer until it is known what it is.
struct Look {
    first: First,
    stream: bool,
    /// What was not looked at yet: an unfinished line, or the whole of an answer that is no stream.
    rest: BytesMut,
    held: usize,
    /// Complete events.
    events: usize,
    /// The present event has data.
    data: bool,
}

impl Look {
    fn new(first: First, stream: bool) -> Self {
        Self { first, stream, rest: BytesMut::new(), held: 0, events: 0, data: false }
    }

    /// Takes more of the answer, plain. `Some(true)`: it is one. `Some(false)`: the engine declined.
    fn data(&mut self, data: &[u8]) -> Option<bool> {
        self.rest.extend_from_slice(data);
        self.held += data.len();
        if !self.stream {
            return (self.held > MAX_WHOLE_ANSWER).then_some(true);
        }
        while let Some(end) = memchr(b'\n', &self.rest) {
            let line = self.rest.split_to(end + 1);
            if self.line(&line) {
                return Some(false);
            }
            if self.events == EVENTS {
                return Some(true);
            }
        }
        (self.held > MAX_HELD_EVENTS).then_some(true)
    }

    /// Whether this line of a stream declines.
    fn line(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii_end();
        if line.is_empty() {
            // Comments keep a connection alive and are no events.
            self.events += usize::from(std::mem::take(&mut self.data));
        }
        let Some(payload) = line.strip_prefix(b"data:") else { return false };
        self.data = true;
        (self.first.declines)(payload.trim_ascii_start())
    }

    /// The answer is complete: whether it is one.
    fn end(&mut self) -> bool {
        let rest = self.rest.split();
        if self.stream { !self.line(&rest) } else { !(self.first.declines)(&rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(stream: bool, pieces: &[&str]) -> (bool, usize) {
        let first = First { declines: |json| json == br#"{"no":1}"# };
        let mut look = Look::new(first, stream);
        for (index, piece) in pieces.iter().enumerate() {
            if let Some(answers) = look.data(piece.as_bytes()) {
                return (answers, index + 1);
            }
        }
        (look.end(), pieces.len())
    }

    #[test]
    fn a_stream_is_held_until_two_events_or_its_end() {
        for (pieces, expected) in [
            (&["data: {\"a\":1}\n\n", "data: {\"a\":2}\n\n", "data: {\"a\":3}\n\n"][..], (true, 2)),
            (&["data: {\"a\":1}\n\ndata: {\"a\":2}\n\n", "x"], (true, 1)),
            (&["data: {\"no\":1}\n", "\n"], (false, 1)),
            (&["data: {\"a\":1}\n\n", "data: {\"no\":1}\n\n"], (false, 2)),
            (&["da", "ta:{\"no\"", ":1}\r", "\n\r\n"], (false, 4)),
            (&["data: {\"a\":1}\n\n", "data: {\"no\":1}"], (false, 2)),
            (&[": ping\n\n", ": ping\n\n", "data: {\"no\":1}\n\n"], (false, 3)),
            (&["event: x\ndata: {\"a\":1}\n\n", "data: [DONE]\n\n"], (true, 2)),
            (&["data: {\"a\":1}\n\n"], (true, 1)),
            (&[], (true, 0)),
            // Too late: the client has the first two.
            (&["data: 1\n\ndata: 2\n\n", "data: {\"no\":1}\n\n"], (true, 1)),
        ] {
            assert_eq!(look(true, pieces), expected, "{pieces:?}");
        }
    }

    #[test]
    fn any_other_answer_is_held_whole() {
        for (pieces, expected) in [
            (&["{\"no\"", ":1}"][..], (false, 2)),
            (&["{\"a\":1}"], (true, 1)),
            (&["no JSON"], (true, 1)),
            (&[], (true, 0)),
        ] {
            assert_eq!(look(false, pieces), expected, "{pieces:?}");
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let line = format!("data: {}", "x".repeat(MAX_HELD_EVENTS));
        assert_eq!(look(true, &[&line, "\n"]), (true, 1));
    }
}
