//! The transparent way to the decode engine: bodies pass unread in both directions, upgrades leave HTTP, and only
//! hop-by-hop and routing headers are touched (spec/sidecar.md 2.2). Which requests survive a connection that the engine
//! closed in that very moment: see [`crate::upstream`]'s `send`.

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
use crate::exchange::AnswerBody;
use crate::record::Record;
use crate::request::headers::{asks_upgrade, strip_hop_by_hop};
use crate::request::intake::{gather, linger};
use crate::respond;
use crate::upstream::LegBody;
use crate::worker::{Rank, Worker};

/// Bodies up to this many bytes are read before they are sent, so that they can be sent twice. Most prompts are smaller, and
/// arrive with their heads or right behind; larger ones stream, and never lie here.
const SMALL_BODY: u64 = 64 * 1024;

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

/// Passes a request to the decode engine and its answer back. `record`: if anybody wants to know of it.
pub async fn pass(
    worker: &Arc<Worker>,
    from: Passthrough,
    mut record: Option<Box<Record>>,
) -> Response<AnswerBody> {
    let upgrading = asks_upgrade(&from.headers);
    let mut headers = from.headers;
    strip_hop_by_hop(&mut headers, upgrading);
    // Our own server has answered the expectation already.
    headers.remove(EXPECT);
    let decoder = &from.rank.decoder;
    if let Some(record) = &mut record {
        record.passes(&from.method, decoder, &mut headers);
    }
    let repeatable =
        record.as_ref().is_some_and(|record| record.is_intercepted()) || from.method.is_idempotent();
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
        Payload::Client(body) if repeatable && body.is_end_stream() => {
            worker.legs.decode.send(decoder, || make(headers.clone(), LegBody::empty())).await
        }
        Payload::Client(mut body) if repeatable && is_small(&body) => {
            match gather(&mut body, worker.settings.body_patience).await {
                Ok(body) => {
                    worker.legs.decode.send(decoder, || make(headers.clone(), body.clone().into())).await
                }
                Err(error) => {
                    worker.in_background(linger(body));
                    if let Some(record) = &mut record {
                        record.failed(&error);
                    }
                    return respond::error(&error);
                }
            }
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

    if sent.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgrade(worker, from.upgrade, sent.response, record);
    }
    AnswerBody::plain(sent, Leg::Decode, record).await
}

fn is_small(body: &Incoming) -> bool {
    body.size_hint().exact().is_some_and(|size| size <= SMALL_BODY)
}

/// Joins the two connections once both have left HTTP.
fn upgrade(
    worker: &Arc<Worker>,
    client: OnUpgrade,
    mut response: Response<Incoming>,
    mut record: Option<Box<Record>>,
) -> Response<AnswerBody> {
    if let Some(record) = &mut record {
        record.answer_begins(StatusCode::SWITCHING_PROTOCOLS.as_u16(), false);
    }
    let engine = hyper::upgrade::on(&mut response);
    worker.in_background(async move {
        let (Ok(client), Ok(engine)) = tokio::join!(client, engine) else {
            return;
        };
        // Either side ending is the end of the conversation; there is nobody left to tell about errors.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(engine)).await;
        if let Some(record) = &mut record {
            record.outcome = "ok";
        }
    });
    let (head, _) = response.into_parts();
    Response::from_parts(head, AnswerBody::full(bytes::Bytes::new()))
}
