//! The way in: one request is sorted to where it is served. Read this file first.

use std::net::IpAddr;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::downstream::Interim;
use crate::error::Error;
use crate::exchange::{self, AnswerBody, LegRequest};
use crate::passthrough::{self, Passthrough};
use crate::record::Record;
use crate::request::headers::{
    Routing, ensure_host, ensure_request_id, forwarded_for, one_request_id, strip_hop_by_hop, unshared,
};
use crate::request::intake::{Intake, linger};
use crate::request::route::{Api, Route, classify};
use crate::respond;
use crate::worker::Worker;

/// Serves one request.
pub async fn serve(
    worker: Arc<Worker>,
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
    let (mut head, mut body) = request.into_parts();
    // On every route: a routing header says where requests go, so no engine may see one.
    let routing = Routing::take(&mut head.headers);
    ensure_host(&mut head.headers, head.uri.authority(), "localhost");
    forwarded_for(&mut head.headers, client);

    let path_and_query = match intercepted {
        Some(api) => clean_path(api, head.uri.query()),
        None => head.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
    };
    let target = prefill_target(&routing.prefill, worker.settings.sample_prefiller);
    let (Some(api), Some(target)) = (intercepted, target) else {
        let id = one_request_id(&mut head.headers);
        let record = intercepted.map(Record::new).map(|mut record| {
            record.request_id = id.as_ref().map(unshared);
            record
        });
        let from = Passthrough {
            method: head.method,
            path_and_query,
            headers: head.headers,
            body,
            upgrade,
            interim,
        };
        return passthrough::pass(&worker, from, record).await;
    };
    let mut record = Record::new(api);
    record.target.clone_from(target);

    let refuse = |mut record: Record, error: Error| {
        record.failed(&error);
        respond::error(&error)
    };
    let target = match target.parse() {
        Ok(target) => Arc::new(target),
        Err(reason) => {
            return refuse(record, Error::BadTarget { value: target.clone(), reason });
        }
    };
    let settings = &worker.settings;
    let watch = settings.connector.watch();
    let intake = match Intake::read(&mut body, watch, settings.max_body, settings.body_patience).await {
        Ok(intake) => intake,
        Err(error) => {
            worker.in_background(linger(body));
            return refuse(record, error);
        }
    };
    drop(body);
    record.bytes_in = intake.body.len();
    strip_hop_by_hop(&mut head.headers, false);
    ensure_request_id(&mut head.headers);
    let request = LegRequest { api, target, path_and_query, headers: head.headers, intake, interim };
    exchange::serve(worker, request, record).await
}

/// The candidate to use: the first, or with sampling any of them.
fn prefill_target(candidates: &[String], sample: bool) -> Option<&String> {
    if sample && candidates.len() > 1 {
        let dice = uuid::Uuid::new_v4().as_u128();
        let index = usize::try_from(dice % candidates.len() as u128).unwrap_or(0);
        return candidates.get(index).filter(|candidate| !candidate.is_empty());
    }
    candidates.first()
}

/// Intercepted requests go on under the API's clean path, with the client's query.
fn clean_path(api: Api, query: Option<&str>) -> PathAndQuery {
    match query {
        None => PathAndQuery::from_static(api.path()),
        Some(query) => PathAndQuery::try_from(format!("{}?{query}", api.path()))
            .unwrap_or_else(|_| PathAndQuery::from_static(api.path())),
    }
}
