//! The routes, and how each answer looks.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use serde::Serialize;
use serde_json::json;

use crate::source::Source;

/// Most requests that are listed: what a person can look through, in some hundred KB.
const MAX_LISTED: usize = 1_000;

/// Longest body of a request: a log level with some directives.
const MAX_BODY: usize = 1024;

/// What is served, as the answers to wrong requests say it.
const ROUTES: [&str; 6] = [
    "GET /metrics",
    "GET /ready",
    "GET /live",
    "GET /debug/requests",
    "GET /log-level",
    "PUT /log-level (the level as body, or ?level=debug)",
];

/// What a path serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Metrics,
    Ready,
    Live,
    Requests,
    LogLevel,
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/metrics" => Some(Self::Metrics),
            "/ready" => Some(Self::Ready),
            "/live" => Some(Self::Live),
            "/debug/requests" => Some(Self::Requests),
            "/log-level" => Some(Self::LogLevel),
            _ => None,
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::LogLevel => "GET, HEAD, PUT",
            Self::Metrics | Self::Ready | Self::Live | Self::Requests => "GET, HEAD",
        }
    }
}

/// Answers one request.
pub(crate) async fn answer<B>(
    source: &dyn Source,
    request: Request<B>,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data: Send> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(route) = Route::of(request.uri().path()) else {
        return Ok(wrong(StatusCode::NOT_FOUND, "nothing is served here"));
    };
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    Ok(match route {
        Route::LogLevel if request.method() == Method::PUT => set_log_level(source, request).await,
        _ if !reads => {
            let mut response = wrong(StatusCode::METHOD_NOT_ALLOWED, "this method is not served here");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(route.methods()));
            response
        }
        Route::Metrics => {
            let metrics = source.metrics();
            respond(StatusCode::OK, metrics.content_type, metrics.text)
        }
        Route::Ready => {
            let reasons = source.readiness().reasons();
            let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(status, &json!({ "ready": reasons.is_empty(), "reasons": reasons }))
        }
        Route::Live => match source.broken() {
            None => json(StatusCode::OK, &json!({ "live": true })),
            Some(reason) => {
                json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "live": false, "reason": reason }))
            }
        },
        Route::Requests => {
            let mut in_flight = source.in_flight(MAX_LISTED);
            in_flight.requests.truncate(MAX_LISTED);
            json(StatusCode::OK, &in_flight)
        }
        Route::LogLevel => level(source),
    })
}

async fn set_log_level<B>(source: &dyn Source, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data: Send> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let asked = request
        .uri()
        .query()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("level=")).map(str::to_owned));
    let asked = match asked {
        Some(asked) => asked,
        None => match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
            Err(error) if error.is::<LengthLimitError>() => {
                return wrong(StatusCode::PAYLOAD_TOO_LARGE, "a log level is a word or a few");
            }
            Err(error) => return wrong(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
        },
    };
    let before = source.log_level();
    match source.set_log_level(&asked) {
        Ok(()) => {
            let now = source.log_level();
            // More than information: from here on the log tells more or less than its reader is used to.
            tracing::warn!(%before, %now, "log level changed on the admin port");
            level(source)
        }
        Err(reason) => wrong(StatusCode::BAD_REQUEST, &reason),
    }
}

fn level(source: &dyn Source) -> Response<Full<Bytes>> {
    json(StatusCode::OK, &json!({ "level": source.log_level() }))
}

fn wrong(status: StatusCode, error: &str) -> Response<Full<Bytes>> {
    json(status, &json!({ "error": error, "routes": ROUTES }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let mut text = serde_json::to_string(value).expect("these values have string keys and no failing parts");
    text.push('\n');
    respond(status, "application/json", text)
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
