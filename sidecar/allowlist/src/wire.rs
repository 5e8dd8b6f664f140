//! The API server's two kinds of answers: a page of a listing, and a watch's stream of one event per line.
//!
//! `kube` has calls for both, but its watch call does not look at the HTTP status, its list call logs a body that
//! does not parse in full, and neither bounds what it reads. So only its client is used, below that level.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt, Collected, LengthLimitError, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::trouble::Trouble;

/// The largest page taken in, in bytes: 200 pods of the largest size that etcd stores by default (1.5 MiB) would
/// be more, 200 pods as they are seen are 2 to 4 MiB.
const PAGE_BYTES: usize = 64 << 20;
/// The largest event taken in, in bytes: one object of etcd's 1.5 MiB, with room for its JSON form.
const LINE_BYTES: usize = 4 << 20;
/// How much of an error's body is read for its message, in bytes.
const ERROR_BYTES: usize = 64 << 10;
/// How much of an error's message is shown, in characters: what a person reads.
const MESSAGE_CHARS: usize = 300;

/// A page of a listing.
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// The version of the whole listing.
    pub(crate) version: String,
    /// The token of the next page, if there is one.
    pub(crate) next: Option<String>,
}

/// One event of a watch, with the version from which to go on after it.
#[derive(Debug, PartialEq)]
pub(crate) enum Event<T> {
    Put(T, String),
    Gone(T, String),
    Bookmark(String),
}

#[derive(Deserialize)]
struct RawPage<T> {
    metadata: ListMetadata,
    // Go's encoder writes `null` for a list without a backing array.
    items: Option<Vec<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
    resource_version: String,
    #[serde(default)]
    r#continue: Option<String>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Versioned {
    metadata: Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    resource_version: String,
}

#[derive(Default, Deserialize)]
struct Failure {
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: u16,
}

/// Sends a request; anything but success is trouble.
pub(crate) async fn send(client: &Client, request: http::Request<Vec<u8>>) -> Result<Body, Trouble> {
    let answer = client.send(request.map(Body::from)).await.map_err(|error| Trouble::unreachable(&error))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer.into_body());
    }
    let body = Limited::new(answer.into_body(), ERROR_BYTES).collect().await;
    let body = body.map(Collected::to_bytes).unwrap_or_default();
    let failure = serde_json::from_slice::<Failure>(&body).unwrap_or_default();
    Err(refused(status, &failure.message))
}

/// Reads a page of a listing.
pub(crate) async fn page<T: DeserializeOwned>(body: Body) -> Result<Page<T>, Trouble> {
    let body = Limited::new(body, PAGE_BYTES).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Trouble::TooMuch("64 MiB a page")
        } else {
            Trouble::unreachable(&*error)
        }
    })?;
    let page: RawPage<T> = serde_json::from_slice(&body.to_bytes()).map_err(|error| garbage(&error))?;
    Ok(Page {
        items: page.items.unwrap_or_default(),
        version: page.metadata.resource_version,
        next: page.metadata.r#continue.filter(|token| !token.is_empty()),
    })
}

/// Reads one event of a watch; an event that reports an error is trouble.
pub(crate) fn event<T: DeserializeOwned>(line: &[u8]) -> Result<Event<T>, Trouble> {
    let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(|error| garbage(&error))?;
    let object = raw.object.get();
    let parse = || serde_json::from_str::<T>(object).map_err(|error| garbage(&error));
    let version = || {
        let versioned: Versioned = serde_json::from_str(object).map_err(|error| garbage(&error))?;
        Ok(versioned.metadata.resource_version)
    };
    match raw.r#type.as_ref() {
        "ADDED" | "MODIFIED" => Ok(Event::Put(parse()?, version()?)),
        "DELETED" => Ok(Event::Gone(parse()?, version()?)),
        "BOOKMARK" => Ok(Event::Bookmark(version()?)),
        "ERROR" => {
            let failure: Failure = serde_json::from_str(object).map_err(|error| garbage(&error))?;
            let status = StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(refused(status, &failure.message))
        }
        other => Err(Trouble::Garbage(format!("unknown event type {:?}", shortened(other)))),
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
}

impl Lines {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line that is not empty, or none at the end. A line without an end is a cut connection's, and dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>, Trouble> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end);
                self.buffer.advance(1);
                self.searched = 0;
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES {
                return Err(Trouble::TooMuch("4 MiB an event"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Trouble::unreachable(&error)),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

fn refused(status: StatusCode, message: &str) -> Trouble {
    if status == StatusCode::GONE {
        return Trouble::Expired;
    }
    let message = if message.is_empty() { status.to_string() } else { shortened(message).to_owned() };
    Trouble::Refused { status, message }
}

fn garbage(error: &serde_json::Error) -> Trouble {
    Trouble::Garbage(error.to_string())
}

fn shortened(text: &str) -> &str {
    text.char_indices().nth(MESSAGE_CHARS).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn lines(text: &[u8]) -> Lines {
        Lines::new(Body::from(text.to_vec()))
    }

    #[tokio::test]
    async fn lines_end_at_line_ends_and_an_unfinished_one_is_dropped() {
        let mut lines = lines(b"one\n\n \r\ntwo\nthr");
        assert_eq!(lines.next().await.unwrap().unwrap(), "one");
        assert_eq!(lines.next().await.unwrap().unwrap(), "two");
        assert!(lines.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_buffered_without_bound() {
        let mut lines = lines(&vec![b'x'; LINE_BYTES + 1]);
        assert!(matches!(lines.next().await, Err(Trouble::TooMuch(_))));
    }

    #[test]
    fn events_carry_the_version_from_which_to_go_on() {
        let bookmark = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"17"}}}"#;
        assert_eq!(event::<Value>(bookmark).unwrap(), Event::Bookmark("17".into()));
        let gone = br#"{"type":"DELETED","object":{"metadata":{"resourceVersion":"18"}}}"#;
        assert!(matches!(event::<Value>(gone).unwrap(), Event::Gone(_, version) if version == "18"));
    }

    #[test]
    fn an_expired_version_is_told_from_other_errors() {
        let expired = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
        assert!(matches!(event::<Value>(expired), Err(Trouble::Expired)));
        let other = br#"{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd is away"}}"#;
        assert!(
            matches!(event::<Value>(other), Err(Trouble::Refused { message, .. }) if message == "etcd is away")
        );
    }

    #[test]
    fn what_is_no_event_is_garbage() {
        for line in [
            "<html>",
            "{}",
            r#"{"type":"ADDED","object":{"metadata":{}}}"#,
            r#"{"type":"SURPRISE","object":{}}"#,
        ] {
            assert!(matches!(event::<Value>(line.as_bytes()), Err(Trouble::Garbage(_))), "{line}");
        }
    }
}
