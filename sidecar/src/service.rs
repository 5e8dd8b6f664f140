//! The way in: one request is sorted to where it is served. Read this file first.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use kvferry_metrics::Disaggregation;
use kvferry_splice::Chunks;

use crate::downstream::Interim;
use crate::error::Error;
use crate::exchange::{self, AnswerBody, LegRequest};
use crate::passthrough::{self, Passthrough, Payload};
use crate::record::Record;
use crate::request::batch::has_several_prompts;
use crate::request::headers::{
    Routing, ensure_host, ensure_request_id, forwarded_for, one_request_id, strip_hop_by_hop, unshared,
};
use crate::request::intake::{Intake, linger};
use crate::request::route::{Api, Route, classify};
use crate::request::{Asked, stateful};
use crate::respond;
use crate::speculative::Turn;
use crate::targets;
use crate::worker::{Rank, Worker};

/// Serves one request that arrived for `rank`.
pub async fn serve(
    worker: Arc<Worker>,
    rank: Arc<Rank>,
    client: IpAddr,
    interim: Option<Interim>,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let intercepted = match classify(request.method(), request.uri()) {
        Route::Health => return respond::healthy(),
        Route::Redirect(location) => return respond::redirect(&location),
        Route::Intercepted(api) => Some(api),
        Route::Passthrough => None,
    };

    let upgrade = hyper::upgrade::on(&mut request);
    let (mut head, body) = request.into_parts();
    // On every route: a routing header says where requests go, so no engine may see one.
    let routing = Routing::take(&mut head.headers);
    ensure_host(&mut head.headers, head.uri.authority(), "localhost");
    forwarded_for(&mut head.headers, client);
    let path_and_query = match intercepted {
        Some(api) => clean_path(api, head.uri.query()),
        None => head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
    };
    let arrived = Arrived { head, path_and_query, body, upgrade, interim, rank };
    match intercepted {
        None => {
            let head = &arrived.head;
            let record = Record::unread(&worker, &head.method, head.uri.path(), &head.headers);
            Box::pin(pass(&worker, arrived, record)).await
        }
        Some(api) => {
            let mut record = Record::new(&worker, api, &arrived.head.headers);
            let mut turn = None;
            let response = match intercept(&worker, arrived, &routing, &mut record, &mut turn).await {
                Ok(Next::Pass(arrived)) => Box::pin(pass(&worker, *arrived, Some(record))).await,
                Ok(Next::PassRead(from)) => Box::pin(passthrough::pass(&worker, *from, Some(record))).await,
                Ok(Next::Handoff(request)) => exchange::serve(worker, *request, record).await,
                Err(error) => {
                    record.failed(&error);
                    respond::error(&error)
                }
            };
            match turn {
                None => response,
                Some(turn) => turn.follow(response),
            }
        }
    }
}

/// A request as it came, cleaned of routing headers.
struct Arrived {
    head: http::request::Parts,
    /// As it goes upstream.
    path_and_query: PathAndQuery,
    body: Incoming,
    upgrade: OnUpgrade,
    interim: Option<Interim>,
    rank: Arc<Rank>,
}

/// How an intercepted request goes on.
enum Next {
    /// To the decode engine, unread.
    Pass(Box<Arrived>),
    /// To the decode engine, with a body that was read.
    PassRead(Box<Passthrough>),
    /// Through prefill and decode, or through decode in chunks.
    Handoff(Box<LegRequest>),
}

/// Looks at what the routing headers ask for, in the order of spec/sidecar.md 2.3, and reads the body if that is needed.
/// `turn` is set if the next turn of this chat is to be prefilled ahead.
async fn intercept(
    worker: &Arc<Worker>,
    mut arrived: Arrived,
    routing: &Routing,
    record: &mut Record,
    turn: &mut Option<Box<Turn>>,
) -> Result<Next, Error> {
    let api = record.api();
    let settings = &worker.settings;
    let encoders = targets::encoders(worker, &routing.encoders);
    record.routed(&routing.prefill, &routing.encoders, encoders.len());
    let mut targets = targets::prefill(worker, &routing.prefill)?;
    if let Some(rank) = targets::rank(worker, &arrived.rank, routing.data_parallel.as_deref())? {
        arrived.rank = rank;
    }
    let id = one_request_id(&mut arrived.head.headers);
    if let Some(id) = &id {
        record.request_id(unshared(id));
    }
    let kv_source = routing.kv_source.as_deref().filter(|_| settings.connector.pulls_from_source());
    let mut kv_source = targets::kv_source(worker, kv_source);
    let encode = settings.encode.filter(|_| !encoders.is_empty());
    if encode.is_some() {
        // What was encoded for this prompt is not for the engine that computed it last time.
        kv_source = None;
    }
    if let Some(source) = &kv_source {
        record.pulls_from(source);
    }
    let chunk = settings.decode_chunk.filter(|_| api == Api::ChatCompletions && encode.is_none());
    let staged = !targets.is_empty() || kv_source.is_some() || encode.is_some();
    // What an encoder has prepared is there for one prefill.
    let speculates = routing.speculative
        && settings.speculative.is_some()
        && api == Api::ChatCompletions
        && encode.is_none();
    // The stateful members of a response need a look whoever serves it.
    if !staged && chunk.is_none() && api != Api::Responses && !speculates {
        return Ok(Next::Pass(Box::new(arrived)));
    }

    let Arrived { mut head, path_and_query, mut body, upgrade, interim, rank } = arrived;
    let read = Intake::read(&mut body, settings.watch, settings.max_body, settings.body_patience).await;
    let intake = match read {
        Ok(intake) => intake,
        Err(error) => {
            worker.in_background(linger(body));
            return Err(error);
        }
    };
    drop(body);
    record.read(&intake);
    let since = Instant::now();
    if api == Api::Responses {
        stateful::check(&intake)?;
    }
    if !settings.connector.takes_several_prompts() && has_several_prompts(api, &intake) {
        targets.clear();
        kv_source = None;
        record.stays_whole();
    }
    let staged = !targets.is_empty() || kv_source.is_some() || encode.is_some();
    if speculates {
        *turn = Turn::begin(worker, api, &intake, &head.headers, &path_and_query, &rank);
    }
    let method = head.method;
    let pass_read = |headers, body, rank, path_and_query, interim| {
        let body = Payload::Read(body);
        Next::PassRead(Box::new(Passthrough {
            method,
            path_and_query,
            headers,
            body,
            rank,
            upgrade,
            interim,
        }))
    };
    let chunked = chunk.is_some_and(|size| exchange::is_chunked(api, &intake.body, size));
    if !staged && !chunked {
        return Ok(pass_read(head.headers, intake.body, rank, path_and_query, interim));
    }
    strip_hop_by_hop(&mut head.headers, false);
    record.announce(&mut head.headers);
    let id = ensure_request_id(&mut head.headers);
    let mut asked = Asked { api, intake, headers: head.headers, id, kv_source, port: rank.port };
    if let Some(how) = encode {
        exchange::encode(worker, how, &encoders, &mut asked, since, record).await?;
    }
    let disaggregation = match (targets.is_empty(), encode.is_some()) {
        (false, false) => Some(Disaggregation::PrefillDecode),
        (false, true) => Some(Disaggregation::EncodePrefillDecode),
        (true, true) => Some(Disaggregation::EncodeDecode),
        (true, false) => None,
    };
    if targets.is_empty() && !chunked {
        if let Some(disaggregation) = disaggregation {
            record.metrics().disaggregated(disaggregation);
        }
        let (headers, body) = computing(worker, asked);
        return Ok(pass_read(headers, body, rank, path_and_query, interim));
    }
    let encoded = encode.is_some();
    let request =
        LegRequest { asked, disaggregation, encoded, since, targets, path_and_query, interim, rank };
    Ok(Next::Handoff(Box::new(request)))
}

/// What the decode engine gets that computes a prompt itself, and may pull a part of its KV from elsewhere.
fn computing(worker: &Worker, asked: Asked) -> (HeaderMap, Chunks) {
    let leg = asked.kv_source.as_ref().and_then(|_| worker.settings.connector.alone(&asked));
    let Asked { mut headers, intake, .. } = asked;
    match leg {
        None => (headers, intake.body),
        Some(leg) => {
            headers.extend(leg.headers);
            (headers, leg.body)
        }
    }
}

/// To the decode engine, unread.
async fn pass(worker: &Arc<Worker>, arrived: Arrived, record: Option<Box<Record>>) -> Response<AnswerBody> {
    let Arrived { mut head, path_and_query, body, upgrade, interim, rank } = arrived;
    one_request_id(&mut head.headers);
    let (method, headers, body) = (head.method, head.headers, Payload::Client(body));
    let from = Passthrough { method, path_and_query, headers, body, rank, upgrade, interim };
    passthrough::pass(worker, from, record).await
}

/// Intercepted requests go on under the API's clean path, with the client's query.
fn clean_path(api: Api, query: Option<&str>) -> PathAndQuery {
    match query {
        None => PathAndQuery::from_static(api.path()),
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", api.path()))
            .unwrap_or_else(|_| PathAndQuery::from_static(api.path())),
    }
}
