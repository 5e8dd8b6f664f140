//! The transparent way to the decode engine: bodies stream unread in both directions, upgrades leave HTTP, and only
//! hop-by-hop and routing headers are touched (spec/sidecar.md 2.2).

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, EXPECT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use kvferry_handoff::Leg;
use kvferry_splice::Chunks;

use crate::downstream::Interim;
use crate::error::Error;
use crate::exchange::{self, AnswerBody};
use crate::record::Record;
use crate::request::headers::{asks_upgrade, strip_hop_by_hop, strip_hop_by_hop_response};
use crate::respond;
use crate::upstream::LegBody;
use crate::worker::{Rank, Worker};

/// A body that is passed on.
pub enum Payload {
    /// The client's own, unread.
    Client(Incoming),
    /// One that was read. It takes its own length.
    Read(Chunks),
}

/// What is passed on.
pub struct Passthrough {
    /// As the client sent it.
    pub method: Method,
    /// Path and query as they go upstream.
    pub path_and_query: PathAndQuery,
    /// Without routing headers; hop-by-hop headers are still there.
    pub headers: HeaderMap,
    /// What goes upstream.
    pub body: Payload,
    /// Which of this pod's engines it goes to.
    pub rank: Arc<Rank>,
    /// The client's side of a protocol upgrade.
    pub upgrade: OnUpgrade,
    /// Where 1xx answers go.
    pub interim: Option<Interim>,
}

/// Passes a request to the decode engine and its answer back. `record`: for intercepted routes, which are logged.
pub async fn pass(
    worker: &Arc<Worker>,
    from: Passthrough,
    mut record: Option<Record>,
) -> Response<AnswerBody> {
    let upgrading = asks_upgrade(&from.headers);
    let mut headers = from.headers;
    strip_hop_by_hop(&mut headers, upgrading);
    // Our own server has answered the expectation already.
    headers.remove(EXPECT);
    let decoder = &from.rank.decoder;
    if let Some(record) = &mut record {
        record.passes();
        record.trace().inject(&mut headers);
    }
    let make = |headers: HeaderMap, body: LegBody| {
        let mut request = Request::new(body);
        *request.method_mut() = from.method.clone();
        *request.uri_mut() = Uri::from(from.path_and_query.clone());
        *request.headers_mut() = headers;
        if let Some(interim) = &from.interim {
            interim.forward(&mut request);
        }
        request
    };
    let sent = match from.body {
        Payload::Read(body) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            worker.legs.decode.send(decoder, || make(headers.clone(), LegBody::from(body.clone()))).await
        }
        Payload::Client(body) if body.is_end_stream() => {
            worker.legs.decode.send(decoder, || make(headers.clone(), LegBody::empty())).await
        }
        Payload::Client(body) => {
            worker.legs.decode.send_once(decoder, make(headers, LegBody::from(body))).await
        }
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(how) => {
            let error = Error::LegBroken { leg: Leg::Decode, target: decoder.to_string(), how };
            if let Some(record) = &mut record {
                record.failed(&error);
            }
            return respond::error(&error);
        }
    };

    let response = sent.response;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade(worker, from.upgrade, response);
    }
    let (mut head, body) = response.into_parts();
    strip_hop_by_hop_response(&mut head.headers);
    if let Some(record) = &mut record {
        record.answer_begins(head.status.as_u16(), exchange::is_event_stream(&head.headers));
    }
    Response::from_parts(head, AnswerBody::plain(body, sent.lease, record))
}

/// Joins the two connections once both have left HTTP.
fn upgrade(
    worker: &Arc<Worker>,
    client: OnUpgrade,
    mut response: Response<Incoming>,
) -> Response<AnswerBody> {
    let engine = hyper::upgrade::on(&mut response);
    worker.in_background(async move {
        let (Ok(client), Ok(engine)) = tokio::join!(client, engine) else {
            return;
        };
        // Either side ending is the end of the conversation; there is nobody left to tell about errors.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(engine)).await;
    });
    let (head, _) = response.into_parts();
    Response::from_parts(head, AnswerBody::full(bytes::Bytes::new()))
}
