//! How a leg, a question before it and a release after it are sent, and how each of them ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, response};
use kvferry_contract::Endpoint;
use kvferry_contract::headers::REQUEST_ID;
use kvferry_handoff::{Again, Leg};
use kvferry_metrics::Disaggregation;

use super::answer::WholeBody;
use super::chunked::Growing;
use super::held::Held;
use super::read::{MAX_PREFILL_ANSWER, MAX_WHOLE_ANSWER, Unread, Whole, collect, is_whole_json, read_whole};
use crate::connector::{Outgoing, Question, ReleaseRequest, UsageEdit};
use crate::downstream::Interim;
use crate::error::{Broken, Error};
use crate::request::Asked;
use crate::upstream::{LegBody, Legs, Sent, Upstream};
use crate::worker::Rank;

/// Largest answer to a connector's question, in bytes: a few ids.
const MAX_QUESTION_ANSWER: usize = 1024 * 1024;

/// How long one of several decode engines may take over a release before the next is asked: engines refuse at once, and
/// more than one turn has to fit into an attempt.
const RELEASE_TURN: Duration = Duration::from_millis(500);

/// What both legs are made from.
#[derive(Debug)]
pub struct LegRequest {
    /// What the client asks for.
    pub asked: Asked,
    /// Which stages it is spread over; `None`: it only decodes.
    pub disaggregation: Option<Disaggregation>,
    /// Its parts were encoded elsewhere. The embeddings are there once, for the engine that gets to them first.
    pub encoded: bool,
    /// When its first stage began: from there its time limit counts.
    pub since: Instant,
    /// Prefill candidates that may be used, the first one primary. Empty: no prefill.
    pub targets: Vec<Arc<Endpoint>>,
    /// Clean path, and the client's query.
    pub path_and_query: PathAndQuery,
    /// Where 1xx answers of the decode engine go.
    pub interim: Option<Interim>,
    /// Which of this pod's engines decodes.
    pub rank: Arc<Rank>,
}

impl LegRequest {
    /// The leg under the client's headers. Cheap to repeat: body and headers are shared.
    pub(super) fn to(&self, leg: &Outgoing) -> Request<LegBody> {
        let mut headers = self.asked.headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(leg.body.len()));
        headers.remove(EXPECT);
        // Both answers are read here.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in &leg.headers {
            headers.insert(name, value.clone());
        }
        let mut request = Request::new(LegBody::from(leg.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(self.path_and_query.clone());
        *request.headers_mut() = headers;
        request
    }
}

/// How the prefill leg ended.
pub(super) enum PrefillEnd {
    /// A success, whole and plain; the connector will say what it means.
    Answered(Bytes),
    /// An error of the engine's own.
    Refused(Sent),
    Failed(Error, Again),
}

/// How the decode leg began, or ended.
pub(super) enum DecodeEnd {
    /// A success that is passed on as it comes.
    Stream(Sent),
    /// A success whose beginning was read already.
    Held(Sent, Held),
    /// A success that goes on behind the first token, which its engine took for the prompt's last.
    Resumed(Sent),
    /// The engine was asked first, and has too little of the prompt.
    Declined,
    /// The first of several chunks that make the answer.
    Grows(response::Parts, Box<Growing>),
    /// A success, complete.
    Whole(response::Parts, WholeBody),
    /// An error of the engine's own.
    Refused(Sent),
    Failed(Error),
}

/// Where a refusal with this status leaves a request.
pub(super) fn after_refusal(status: StatusCode) -> Again {
    match status.as_u16() {
        // As the contract has it (spec/sidecar.md 3.1).
        502..=504 => Again::Here,
        408 | 425 | 429 | 500..=599 => Again::Elsewhere,
        _ => Again::Never,
    }
}

pub(super) async fn prefill(
    upstream: Upstream,
    request: Arc<LegRequest>,
    target: Arc<Endpoint>,
    leg: Outgoing,
) -> PrefillEnd {
    let broke = |how| {
        let error = Error::LegBroken { leg: Leg::Prefill, target: target.to_string(), how };
        let again = if error.is_unreachable() { Again::Anywhere } else { Again::Here };
        PrefillEnd::Failed(error, again)
    };
    let sent = match upstream.send(&target, || request.to(&leg)).await {
        Ok(sent) => sent,
        Err(how) => return broke(how),
    };
    if !sent.response.status().is_success() {
        return PrefillEnd::Refused(sent);
    }
    match read_whole(sent, MAX_PREFILL_ANSWER).await {
        Ok(whole) => PrefillEnd::Answered(whole.plain),
        Err(Unread::TooLarge) => {
            PrefillEnd::Failed(Error::PrefillTooLarge { limit: MAX_PREFILL_ANSWER }, Again::Elsewhere)
        }
        Err(Unread::Broken(how)) => broke(how),
        Err(Unread::Coding(detail)) => {
            PrefillEnd::Failed(Error::PrefillNotJson { target: target.to_string(), detail }, Again::Elsewhere)
        }
    }
}

/// `usage`: the number to put into the answer, if any.
pub(super) async fn decode(
    upstream: Upstream,
    request: Arc<LegRequest>,
    leg: Outgoing,
    usage: Option<UsageEdit>,
) -> DecodeEnd {
    let decoder = Arc::clone(&request.rank.decoder);
    let failed =
        |how| DecodeEnd::Failed(Error::LegBroken { leg: Leg::Decode, target: decoder.to_string(), how });
    let sent = upstream
        .send(&decoder, || {
            let mut leg = request.to(&leg);
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
    let Some(edit) = usage.filter(|_| is_whole_json(&sent.response)) else {
        return DecodeEnd::Stream(sent);
    };
    match hold(sent).await {
        Ok((head, body)) => DecodeEnd::Whole(head, body.corrected(Some(edit))),
        Err(how) => failed(how),
    }
}

/// Reads an answer that [is one JSON text](is_whole_json) to its end.
pub(super) async fn hold(sent: Sent) -> Result<(response::Parts, WholeBody), Broken> {
    match read_whole(sent, MAX_WHOLE_ANSWER).await {
        Ok(Whole { mut head, plain, trailers }) => {
            head.headers.remove(CONTENT_LENGTH);
            Ok((head, WholeBody::as_it_came(plain, trailers)))
        }
        Err(Unread::TooLarge) => {
            Err(Broken::Other(format!("its answer is larger than {MAX_WHOLE_ANSWER} bytes")))
        }
        Err(Unread::Broken(how)) => Err(how),
        Err(Unread::Coding(detail)) => Err(Broken::Other(detail)),
    }
}

/// Asks a connector's question.
pub(super) async fn ask(upstream: Upstream, question: Question) -> Result<Bytes, Error> {
    let of = Arc::new(question.of);
    let failed = |detail: String| Error::PrefillUnknown { target: of.to_string(), detail };
    let asking = async {
        let sent = upstream
            .send(&of, || {
                let mut request = Request::new(LegBody::empty());
                *request.uri_mut() = Uri::from_static(question.path);
                host(request.headers_mut(), &of);
                request
            })
            .await
            .map_err(|how| failed(how.to_string()))?;
        let status = sent.response.status();
        let whole = read_whole(sent, MAX_QUESTION_ANSWER).await.map_err(|unread| {
            failed(match unread {
                Unread::TooLarge => format!("its answer is larger than {MAX_QUESTION_ANSWER} bytes"),
                Unread::Broken(how) => how.to_string(),
                Unread::Coding(detail) => detail,
            })
        })?;
        if status.is_success() { Ok(whole.plain) } else { Err(failed(format!("it answered {status}"))) }
    };
    let late = |_| Err(failed(format!("no answer within {} s", question.patience.as_secs())));
    tokio::time::timeout(question.patience, asking).await.unwrap_or_else(late)
}

/// One attempt to release; whether the engines took it.
pub(super) async fn release(
    legs: Legs,
    engines: Engines,
    request: ReleaseRequest,
    id: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
) -> bool {
    let mut next = Some(request);
    while let Some(request) = next {
        let id = request.id.as_ref().or(id.as_ref());
        let taken = match request.to {
            Leg::Prefill => {
                is_taken(&legs.prefill, &engines.prefill, &request, id, authorization.as_ref()).await
            }
            Leg::Decode => by_any_rank(&legs, &engines.decode, &request, id, authorization.as_ref()).await,
        };
        if !taken {
            return false;
        }
        next = request.then.map(|then| *then);
    }
    true
}

/// Through the request's own decode engine or, if that cannot, another of this pod: whoever has a way to the prefill engine
/// can tell it that the KV is not wanted. KV for a rank whose engine died would run into its lease otherwise.
async fn by_any_rank(
    legs: &Legs,
    own: &Arc<Endpoint>,
    request: &ReleaseRequest,
    id: Option<&HeaderValue>,
    authorization: Option<&HeaderValue>,
) -> bool {
    let (before, from) = legs.decoders.split_at(legs.decoders.iter().take_while(|it| *it != own).count());
    let mut others = from.iter().chain(before).filter(|other| *other != own);
    let mut engine = own;
    loop {
        let asking = is_taken(&legs.decode, engine, request, id, authorization);
        let Some(next) = others.next() else { return asking.await };
        if tokio::time::timeout(RELEASE_TURN, asking).await == Ok(true) {
            return true;
        }
        engine = next;
    }
}

/// Whether this engine took the release.
async fn is_taken(
    upstream: &Upstream,
    engine: &Arc<Endpoint>,
    request: &ReleaseRequest,
    id: Option<&HeaderValue>,
    authorization: Option<&HeaderValue>,
) -> bool {
    let sent = upstream
        .send(engine, || {
            let mut leg = Request::new(LegBody::from(request.body.clone()));
            *leg.method_mut() = Method::POST;
            *leg.uri_mut() = Uri::from_static(request.path);
            let headers = leg.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(request.body.len()));
            host(headers, engine);
            if let Some(id) = id {
                headers.insert(REQUEST_ID, id.clone());
            }
            if let Some(authorization) = authorization {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            leg
        })
        .await;
    let sent = match sent {
        Ok(sent) => sent,
        Err(how) => {
            if how.is_unreachable() {
                request.refusals.note();
            }
            return false;
        }
    };
    let status = sent.response.status();
    if status.is_server_error() {
        request.refusals.note();
    }
    if collect(sent.response.into_body(), MAX_PREFILL_ANSWER).await.is_ok() {
        sent.lease.recycle();
    }
    request.is_taken(status)
}

/// The two engines that may hold something of a request.
pub(super) struct Engines {
    pub(super) prefill: Arc<Endpoint>,
    pub(super) decode: Arc<Endpoint>,
}

pub(super) fn host(headers: &mut HeaderMap, endpoint: &Endpoint) {
    if let Ok(host) = HeaderValue::from_str(&endpoint.to_string()) {
        headers.insert(HOST, host);
    }
}
