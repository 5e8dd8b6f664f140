//! How one leg is sent and what its answer means.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue,
};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, response};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kvferry_contract::Endpoint;
use kvferry_contract::headers::REQUEST_ID;
use kvferry_handoff::Leg;
use kvferry_splice::Chunks;

use super::answer::WholeBody;
use super::inflate::{inflate, is_gzip, now_plain};
use crate::connector::{KvParams, PrefillAnswer, ReleaseRequest, UsageEdit};
use crate::downstream::Interim;
use crate::error::{Broken, Error};
use crate::request::intake::{Collector, Intake};
use crate::request::route::Api;
use crate::upstream::{LegBody, Sent, broken};
use crate::worker::Worker;

/// Largest prefill answer that is read, in bytes. It holds one token and the KV parameters, but may carry the prompt's
/// log-probabilities.
const MAX_PREFILL_ANSWER: usize = 64 * 1024 * 1024;

/// Largest decode answer that is held back to correct its usage, in bytes. A larger one is passed on as it is.
const MAX_WHOLE_ANSWER: usize = 64 * 1024 * 1024;

/// What both legs are made from.
#[derive(Debug)]
pub struct LegRequest {
    /// The client's API.
    pub api: Api,
    /// The prefill engine.
    pub target: Arc<Endpoint>,
    /// Clean path, and the client's query.
    pub path_and_query: PathAndQuery,
    /// The client's headers, cleaned (see `request::headers`).
    pub headers: HeaderMap,
    /// The client's body.
    pub intake: Intake,
    /// Where 1xx answers of the decode engine go.
    pub interim: Option<Interim>,
}

impl LegRequest {
    /// The id that both legs carry.
    pub(super) fn id(&self) -> Option<HeaderValue> {
        self.headers.get(REQUEST_ID).cloned()
    }

    fn to(&self, body: Chunks) -> Request<LegBody> {
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.remove(EXPECT);
        // Both answers are read here.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let mut request = Request::new(LegBody::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(self.path_and_query.clone());
        *request.headers_mut() = headers;
        request
    }
}

/// How the prefill leg ended.
pub(super) enum PrefillEnd {
    Accepted(PrefillAnswer),
    /// An error of the engine's own.
    Refused(Sent),
    Failed(Error),
}

/// How the decode leg began, or ended.
pub(super) enum DecodeEnd {
    /// A success that is passed on as it comes.
    Stream(Sent),
    /// A success, complete.
    Whole(response::Parts, WholeBody),
    /// An error of the engine's own.
    Refused(Sent),
    Failed(Error),
}

pub(super) async fn prefill(worker: Arc<Worker>, request: Arc<LegRequest>) -> PrefillEnd {
    let target = request.target.to_string();
    let failed =
        |how| PrefillEnd::Failed(Error::LegBroken { leg: Leg::Prefill, target: target.clone(), how });
    let body = worker.settings.connector.prefill_body(request.api, &request.intake);
    let sent = match worker.upstream.send(&request.target, || request.to(body.clone())).await {
        Ok(sent) => sent,
        Err(how) => return failed(how),
    };
    if !sent.response.status().is_success() {
        return PrefillEnd::Refused(sent);
    }
    let invalid =
        |detail: String| PrefillEnd::Failed(Error::PrefillNotJson { target: target.clone(), detail });
    let answer = match read_whole(sent, MAX_PREFILL_ANSWER).await {
        Ok(whole) => whole.plain,
        Err(Unread::TooLarge) => {
            return PrefillEnd::Failed(Error::PrefillTooLarge { limit: MAX_PREFILL_ANSWER });
        }
        Err(Unread::Broken(how)) => return failed(how),
        Err(Unread::Coding(detail)) => return invalid(detail),
    };
    match worker.settings.connector.read_prefill(request.api, &answer) {
        Ok(answer) => PrefillEnd::Accepted(answer),
        Err(malformed) => invalid(malformed.to_string()),
    }
}

pub(super) async fn decode(
    worker: Arc<Worker>,
    request: Arc<LegRequest>,
    kv: Option<KvParams>,
    cached_tokens: u64,
) -> DecodeEnd {
    let decoder = &worker.settings.decoder;
    let failed =
        |how| DecodeEnd::Failed(Error::LegBroken { leg: Leg::Decode, target: decoder.to_string(), how });
    let body = worker.settings.connector.decode_body(&request.intake, kv.as_ref());
    let sent = worker
        .upstream
        .send(decoder, || {
            let mut leg = request.to(body.clone());
            if let Some(interim) = &request.interim {
                interim.forward(&mut leg);
            }
            leg
        })
        .await;
    let sent = match sent {
        Ok(sent) => sent,
        Err(how) => return failed(how),
    };
    if !sent.response.status().is_success() {
        return DecodeEnd::Refused(sent);
    }
    let Some(edit) = UsageEdit::new(request.api, cached_tokens).filter(|_| is_whole_json(&sent.response))
    else {
        return DecodeEnd::Stream(sent);
    };
    match read_whole(sent, MAX_WHOLE_ANSWER).await {
        Ok(Whole { mut head, plain, trailers }) => {
            let body = edit.apply(&plain).unwrap_or(plain);
            head.headers.remove(CONTENT_LENGTH);
            DecodeEnd::Whole(head, WholeBody::new(body, trailers))
        }
        Err(Unread::TooLarge) => {
            failed(Broken::Other(format!("its answer is larger than {MAX_WHOLE_ANSWER} bytes")))
        }
        Err(Unread::Broken(how)) => failed(how),
        Err(Unread::Coding(detail)) => failed(Broken::Other(detail)),
    }
}

/// One attempt to release; whether the engines took it.
pub(super) async fn release(
    worker: Arc<Worker>,
    request: ReleaseRequest,
    id: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
) -> bool {
    let decoder = &worker.settings.decoder;
    let sent = worker
        .upstream
        .send(decoder, || {
            let mut leg = Request::new(LegBody::from(Chunks::from(request.body.clone())));
            *leg.method_mut() = Method::POST;
            *leg.uri_mut() = Uri::from_static(request.path);
            let headers = leg.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(request.body.len()));
            if let Ok(host) = HeaderValue::from_str(&decoder.to_string()) {
                headers.insert(http::header::HOST, host);
            }
            if let Some(id) = &id {
                headers.insert(REQUEST_ID, id.clone());
            }
            if let Some(authorization) = &authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            leg
        })
        .await;
    let Ok(sent) = sent else { return false };
    let status = sent.response.status();
    if collect(sent.response.into_body(), MAX_PREFILL_ANSWER).await.is_ok() {
        sent.lease.recycle();
    }
    // The request is made to be refused by the model's name (404, on some versions 400). Anything else never got as far
    // as the engine's clean-up.
    matches!(status, http::StatusCode::NOT_FOUND | http::StatusCode::BAD_REQUEST)
}

/// Whether this answer is one JSON text that can be held to correct its usage. Nobody can read half of it, so holding
/// it costs no time, and an engine that dies half-way becomes a clear error.
fn is_whole_json(response: &Response<Incoming>) -> bool {
    let json = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"application/json"));
    json && response.body().size_hint().lower() <= MAX_WHOLE_ANSWER as u64
}

/// A complete answer of an engine.
struct Whole {
    /// Says nothing of a coding any more.
    head: response::Parts,
    plain: Bytes,
    trailers: Option<HeaderMap>,
}

/// Why an answer could not be read whole.
enum Unread {
    TooLarge,
    Broken(Broken),
    /// Its gzip coding is wrong, or inflates beyond the limit.
    Coding(String),
}

/// Reads an answer of at most `limit` bytes, plain, to its end. Its connection is kept.
async fn read_whole(sent: Sent, limit: usize) -> Result<Whole, Unread> {
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
async fn collect(mut body: Incoming, limit: usize) -> Result<(Bytes, Option<HeaderMap>), Unread> {
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
