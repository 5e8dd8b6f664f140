//! The encoder stage: the images, sounds and videos of a prompt are encoded elsewhere, all of them at once, before
//! prefill or decode see the request (spec/sidecar.md 3.7 and 12.4).
//!
//! One request per part. The first that fails takes the others down, since a prompt that lacks a part cannot be served.
//! What the encoders say of where their embeddings lie goes into the request (`ec-nixl`), or is of no interest, the
//! embeddings being found by content in shared storage (`ec-example`).

mod merge;
mod parts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use kvferry_contract::Endpoint;
use kvferry_contract::headers::REQUEST_ID;
use kvferry_splice::{Chunks, Edits, scan};
use kvferry_traces::Span;
use tokio::task::JoinSet;

use super::legs::host;
use super::read::{Unread, read_whole};
use crate::error::Error;
use crate::record::{Encoding, Record};
use crate::request::Asked;
use crate::request::intake::Intake;
use crate::upstream::{LegBody, Upstream};
use crate::worker::Worker;
use merge::Members;

/// Where encoders say where their embeddings are.
const EC_PARAMS: &str = "ec_transfer_params";

/// Tells the engines behind the encoders to look for embeddings and KV, and never to give up over too few.
const THRESHOLD: &str = "cache_hit_threshold";

/// Parts of one request that are encoded at the same time. Encoders batch a few dozen at most; a prompt with hundreds of
/// frames must not open hundreds of connections.
const MAX_AT_ONCE: usize = 32;

/// Largest answer of an encoder, in bytes. It holds one token and a few addresses.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Top-level members of a body that this stage needs to find.
pub const WATCH: [&str; 4] = [parts::WATCH[0], parts::WATCH[1], EC_PARAMS, THRESHOLD];

/// How encoders hand embeddings over (`--ec-connector`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encode {
    /// `ec-example`: through storage that all engines share.
    Example,
    /// `ec-nixl`: from the encoder's memory; its answer says where.
    Nixl,
}

impl Encode {
    /// Their names.
    pub const NAMES: [&'static str; 2] = ["ec-example", "ec-nixl"];

    /// Its name.
    pub fn name(self) -> &'static str {
        let [example, nixl] = Self::NAMES;
        match self {
            Self::Example => example,
            Self::Nixl => nixl,
        }
    }

    /// The one that `name` names.
    pub fn by_name(name: &str) -> Option<Self> {
        let [example, nixl] = Self::NAMES;
        match name {
            name if name == example => Some(Self::Example),
            name if name == nixl => Some(Self::Nixl),
            _ => None,
        }
    }
}

/// Has every part of the request encoded, part `i` by encoder `i mod n`, and prepares the request for what follows.
/// Dropping the future cancels what runs. It may take as long as a prefill, and no longer than the request, of which the
/// first stage began at `since`.
///
/// # Errors
/// A part could not be encoded, or not in time.
///
/// # Panics
/// There is no encoder.
pub async fn encode(
    worker: &Worker,
    how: Encode,
    encoders: &[Arc<Endpoint>],
    asked: &mut Asked,
    since: Instant,
    record: &mut Record,
) -> Result<(), Error> {
    let parts = parts::parts(asked);
    let mut members = Members::default();
    if !parts.is_empty() {
        let encoding = record.encode_begins(parts.len(), encoders.len());
        let bodies = parts::template(asked)
            .map(|hole| parts.into_iter().map(|part| hole.fill(part)).collect())
            .unwrap_or_default();
        let fan_out = fan_out(&worker.legs.encode, how, encoders, asked, bodies, &encoding);
        let answers = within(limit(worker, since), fan_out).await;
        encoding.ended(answers.as_ref().map(|_| ()).map_err(Error::code));
        let answers = answers?;
        if answers.iter().any(Option::is_some) {
            let own = asked.intake.document.value(EC_PARAMS).map(|range| asked.intake.body.gather(range));
            own.iter().chain(answers.iter().flatten()).for_each(|object| members.take(object));
        }
    }
    let mut edits = Edits::new().set(THRESHOLD, "0");
    if !members.is_empty() {
        edits = edits.set(EC_PARAMS, members.to_json());
    }
    let body = edits.apply(&asked.intake.document, &asked.intake.body);
    asked.intake = Intake::of(body, worker.settings.watch)?;
    Ok(())
}

/// How long this stage may take.
fn limit(worker: &Worker, since: Instant) -> Option<Duration> {
    let limits = &worker.settings.limits;
    let left = limits.request.map(|limit| limit.saturating_sub(since.elapsed()));
    [limits.prefill, left].into_iter().flatten().min()
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or(Err(Error::EncodeTimeout { limit_ms: limit.as_millis() })),
    }
}

/// Sends every body and waits for all answers. Returns what each says of its embedding.
async fn fan_out(
    upstream: &Upstream,
    how: Encode,
    encoders: &[Arc<Endpoint>],
    asked: &Asked,
    bodies: Vec<Chunks>,
    encoding: &Encoding,
) -> Result<Vec<Option<Bytes>>, Error> {
    let mut answers = vec![None; bodies.len()];
    let mut waiting = bodies.into_iter().enumerate();
    // Dropping the set aborts what is in it.
    let mut running = JoinSet::new();
    loop {
        while running.len() < MAX_AT_ONCE
            && let Some((index, body)) = waiting.next()
        {
            let encoder = Arc::clone(&encoders[index % encoders.len()]);
            let mut headers = headers(asked, index, &encoder, &body);
            let span = encoding.request(&encoder, &mut headers);
            let request = Part { path: asked.api.path(), headers, body };
            let upstream = upstream.clone();
            running.spawn(async move { (index, one(upstream, how, encoder, request, span).await) });
        }
        match running.join_next().await {
            None => return Ok(answers),
            Some(Ok((index, answer))) => answers[index] = answer?,
            Some(Err(error)) => return Err(Error::EncodeFailed { detail: error.to_string() }),
        }
    }
}

/// What an encoder gets of the client's headers: nothing but the right to ask it.
fn headers(asked: &Asked, index: usize, encoder: &Endpoint, body: &Chunks) -> HeaderMap {
    let mut headers = HeaderMap::new();
    host(&mut headers, encoder);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let id = [asked.id.as_bytes(), format!("-enc-{index}").as_bytes()].concat();
    let id = HeaderValue::from_bytes(&id).expect("a header value with plain letters behind it is one, too");
    headers.insert(REQUEST_ID, id);
    if let Some(authorization) = asked.headers.get(AUTHORIZATION) {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    headers
}

/// The request for one part.
struct Part {
    path: &'static str,
    headers: HeaderMap,
    body: Chunks,
}

/// Has one part encoded.
async fn one(
    upstream: Upstream,
    how: Encode,
    encoder: Arc<Endpoint>,
    part: Part,
    mut span: Span,
) -> Result<Option<Bytes>, Error> {
    let failed = |how: String| Error::EncodeFailed { detail: format!("encoder {encoder}: {how}") };
    let sent = upstream
        .send(&encoder, || {
            let mut request = Request::new(LegBody::from(part.body.clone()));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = Uri::from_static(part.path);
            *request.headers_mut() = part.headers.clone();
            request
        })
        .await
        .map_err(|broken| failed(broken.to_string()))?;
    let status = sent.response.status();
    span.answered(status.as_u16());
    if !status.is_success() {
        return Err(failed(format!("it answered {status}")));
    }
    let whole = read_whole(sent, MAX_ANSWER).await.map_err(|unread| {
        failed(match unread {
            Unread::TooLarge => format!("its answer is larger than {MAX_ANSWER} bytes"),
            Unread::Broken(broken) => broken.to_string(),
            Unread::Coding(detail) => detail,
        })
    })?;
    if how == Encode::Example {
        return Ok(None);
    }
    let watch = [EC_PARAMS];
    let document = scan(&whole.plain, &watch)
        .map_err(|malformed| failed(format!("its answer is no JSON object: {malformed}")))?;
    // In a buffer of its own: the answer around it goes.
    Ok(document
        .value(EC_PARAMS)
        .map(|range| Bytes::copy_from_slice(&whole.plain[range]))
        .filter(|params| params.first() == Some(&b'{')))
}
