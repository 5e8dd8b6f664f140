//! Engines' answers read whole: bounded, plain, and told apart from those that broke on the way.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{Response, response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::inflate::{inflate, is_gzip, now_plain};
use crate::error::Broken;
use crate::request::intake::Collector;
use crate::upstream::{Sent, broken};

/// Largest prefill answer that is read, in bytes. It holds one token and the KV parameters, but may carry the prompt's
/// log-probabilities.
pub(super) const MAX_PREFILL_ANSWER: usize = 64 * 1024 * 1024;

/// Largest decode answer that is held back to correct its usage, in bytes. A larger one is passed on as it is.
pub(super) const MAX_WHOLE_ANSWER: usize = 64 * 1024 * 1024;

/// A complete answer of an engine.
pub(super) struct Whole {
    /// Says nothing of a coding any more.
    pub(super) head: response::Parts,
    pub(super) plain: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// Why an answer could not be read whole.
pub(super) enum Unread {
    TooLarge,
    Broken(Broken),
    /// Its gzip coding is wrong, or inflates beyond the limit.
    Coding(String),
}

/// Whether this answer is one JSON text that can be held to correct its usage. Nobody can read half of it, so holding
/// it costs no time, and an engine that dies half-way becomes a clear error.
pub(super) fn is_whole_json(response: &Response<Incoming>) -> bool {
    let json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"application/json"));
    json && response.body().size_hint().lower() <= MAX_WHOLE_ANSWER as u64
}

/// Reads an answer of at most `limit` bytes, plain, to its end. Its connection is kept.
pub(super) async fn read_whole(sent: Sent, limit: usize) -> Result<Whole, Unread> {
    let (mut head, body) = sent.response.into_parts();
    let (bytes, trailers) = collect(body, limit).await?;
    sent.lease.recycle();
    let plain = if is_gzip(&head.headers) {
        let plain = inflate(&bytes, limit).map_err(Unread::Coding)?;
        now_plain(&mut head.headers);
        plain
    } else {
        bytes
    };
    Ok(Whole { head, plain, trailers })
}

/// The whole body as one buffer, and its trailers.
pub(super) async fn collect(mut body: Incoming, limit: usize) -> Result<(Bytes, Option<HeaderMap>), Unread> {
    let mut whole = Collector::default();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unread::Broken(broken(&error)))?;
        match frame.into_data() {
            Ok(data) if whole.len() + data.len() > limit => return Err(Unread::TooLarge),
            Ok(data) => whole.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((whole.finish().to_bytes(), trailers))
}
