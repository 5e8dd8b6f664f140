//! The bootstrap server of a prefill engine, and how decode engines ask it.
//!
//! Two protocols keep a small HTTP server beside the engine: sglang's says which engine lives here and where
//! its KV is (`/route`), mooncake's lists the data-parallel engines (`/query`). The answers are made of the
//! engine's current life, so that an id from before a restart is not found.

use std::io;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

use super::meet::Place;
use crate::api;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::http::body::{Body, json as answer_json};
use crate::transfer::line::{PEER_SILENCE, refused, within};

/// Longest bootstrap answer in bytes; one entry a rank is some hundred.
const MAX_ANSWER: usize = 1 << 20;

/// Where an engine's KV is, and under which id.
pub(crate) struct Door {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) engine_id: String,
}

/// Answers a GET to the bootstrap port.
pub(crate) fn answer(engine: &Engine, path: &str) -> Response<Body> {
    match path {
        "/route" => answer_json(StatusCode::OK, &route(engine)),
        "/query" => answer_json(StatusCode::OK, &query(engine)),
        "/health" => api::empty(),
        _ => api::error(&ApiError::not_found()),
    }
}

fn route(engine: &Engine) -> Value {
    json!({"rank_ip": engine.config().host, "rank_port": engine.ports.kv, "engine_id": engine.id})
}

/// One entry a rank: its engine id, and the address of its one worker.
fn query(engine: &Engine) -> Value {
    let address = format!("tcp://{}:{}", engine.config().host, engine.ports.kv);
    let entry = |rank| json!({"engine_id": engine.rank_id(rank), "worker_addr": {"0": {"0": address}}});
    let ranks = 0..engine.config().dp_size;
    Value::Object(ranks.map(|rank| (rank.to_string(), entry(rank))).collect::<Map<_, _>>())
}

/// Finds the engine behind a place.
pub(crate) async fn locate(place: &Place) -> io::Result<Door> {
    let found = match place {
        Place::Engine { host, port, engine_id } => {
            return Ok(Door { host: host.clone(), port: *port, engine_id: engine_id.clone() });
        }
        Place::P2p { host, port } => {
            return Ok(Door { host: host.clone(), port: *port, engine_id: String::new() });
        }
        Place::Bootstrap { host, port } => routed(&format!("{host}:{port}")).await,
        Place::Listed { url, engine_id } => listed(url, engine_id).await,
    };
    found.map_err(|error| io::Error::new(error.kind(), format!("bootstrap: {error}")))
}

async fn routed(authority: &str) -> io::Result<Door> {
    let found = get(authority, "/route").await?;
    door(&found["engine_id"], &found["rank_ip"], found["rank_port"].as_u64())
}

async fn listed(url: &str, engine_id: &str) -> io::Result<Door> {
    let authority = url
        .strip_prefix("http://")
        .ok_or_else(|| refused(format!("'{url}' is not an http:// address")))?
        .trim_end_matches('/');
    let found = get(authority, "/query").await?;
    let mut entries = found.as_object().into_iter().flatten().map(|(_, entry)| entry);
    let entry = entries
        .find(|entry| entry["engine_id"] == engine_id)
        .ok_or_else(|| refused(format!("{url} knows no engine {engine_id}")))?;
    let address = entry["worker_addr"]["0"]["0"].as_str().unwrap_or_default();
    let (host, port) = address
        .strip_prefix("tcp://")
        .and_then(|address| address.rsplit_once(':'))
        .ok_or_else(|| refused(format!("'{address}' is no worker address")))?;
    door(&engine_id.into(), &host.into(), port.parse().ok())
}

fn door(engine_id: &Value, host: &Value, port: Option<u64>) -> io::Result<Door> {
    let port = port.and_then(|port| u16::try_from(port).ok());
    match (engine_id.as_str(), host.as_str(), port) {
        (Some(engine_id), Some(host), Some(port)) => {
            Ok(Door { host: host.into(), port, engine_id: engine_id.into() })
        }
        _ => Err(refused("the bootstrap answer names no engine".into())),
    }
}

/// `GET http://authority/path`, as JSON.
async fn get(authority: &str, path: &str) -> io::Result<Value> {
    within(PEER_SILENCE, async {
        let socket = TcpStream::connect(authority).await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        let request = Request::get(path).header("host", authority).body(Empty::<Bytes>::new());
        let exchange = async {
            let request = request.map_err(io::Error::other)?;
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER);
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            if status != StatusCode::OK {
                return Err(refused(format!("{path} answered {status}")));
            }
            Ok(serde_json::from_slice(&body)?)
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => return done,
            // The connection may end before its answer was looked at.
            _ = &mut connection => {}
        }
        exchange.await
    })
    .await
}
