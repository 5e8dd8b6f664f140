//! From a request to its answer: record it, apply the faults in force, dispatch.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::json as value;

use super::body::{Body, json};
use super::conn::{Conn, Face, Gone};
use super::seen::SeenRequest;
use super::{control, misbehave};
use crate::api::{self, Route, abort};
use crate::error::ApiError;
use crate::handoff::bootstrap;
use crate::metrics;
use crate::server::Shared;

/// Largest request body in bytes: four times the sidecar's default limit, so that the sidecar's shows first.
const MAX_BODY: usize = 256 << 20;

const ROLE: HeaderName = HeaderName::from_static("x-emulator-role");

/// Answers one request.
pub(crate) async fn handle(
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Gone> {
    if conn.face == Face::Engine && control::owns(request.uri().path()) {
        Ok(tagged(&shared, control::handle(&shared, &conn, request).await?))
    } else {
        serve(&shared, &conn, request).await
    }
}

fn tagged(shared: &Shared, mut response: Response<Body>) -> Response<Body> {
    let role = HeaderValue::from_static(shared.settings.config.role.as_str());
    response.headers_mut().insert(ROLE, role);
    response
}

async fn serve(
    shared: &Arc<Shared>,
    conn: &Conn,
    request: Request<Incoming>,
) -> Result<Response<Body>, Gone> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let error = ApiError::status(StatusCode::PAYLOAD_TOO_LARGE);
            return Ok(tagged(shared, api::error(&error)));
        }
        Err(_) => return Err(Gone),
    };
    shared.seen.push(SeenRequest::new(&parts, &body));
    let faults = shared.settings.faults.take_for(parts.uri.path());
    let response = match misbehave::before(shared, conn, &faults).await? {
        Some(instead) => instead,
        None if conn.face == Face::Bootstrap => ask_bootstrap(shared, &parts),
        None => dispatch(shared, &parts, &body).await,
    };
    misbehave::after(conn, &faults, &parts.headers, tagged(shared, response)).await
}

fn ask_bootstrap(shared: &Shared, parts: &Parts) -> Response<Body> {
    if parts.method != Method::GET {
        return api::error(&ApiError::status(StatusCode::METHOD_NOT_ALLOWED));
    }
    bootstrap::answer(&shared.engine(), parts.uri.path())
}

async fn dispatch(shared: &Shared, parts: &Parts, body: &Bytes) -> Response<Body> {
    let engine = shared.engine();
    let path = parts.uri.path();
    if path == "/emulator/echo" {
        return json(StatusCode::OK, &SeenRequest::new(parts, body));
    }
    if let Some(route) = Route::of(path) {
        if parts.method != Method::POST {
            return api::error(&ApiError::status(StatusCode::METHOD_NOT_ALLOWED));
        }
        return api::serve(&engine, route, &parts.headers, body).await;
    }
    if let Some(route) = abort::Route::of(path).filter(|_| parts.method == Method::POST) {
        return abort::serve(&engine, route, body);
    }
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    match path {
        "/health" if reads => api::empty(),
        "/metrics" if reads => metrics::answer(&engine),
        "/v1/models" if reads => api::models(&engine),
        "/version" if reads => json(StatusCode::OK, &value!({"version": "0.32.0+emulator"})),
        _ => api::error(&ApiError::not_found()),
    }
}
