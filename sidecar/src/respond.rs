//! The one place where errors become responses, in the shape that vLLM's clients know (spec/sidecar.md 2.5).

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::error::Error;
use crate::exchange::AnswerBody;

/// Carries the error's stable code, so that scripts need not read the message.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-kvferry-error");

/// Tells clients whether sending the same request again may help; OpenAI's client libraries obey it.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The response for an error of ours.
pub fn error(error: &Error) -> Response<AnswerBody> {
    let status = error.status();
    let (content_type, body) = match error {
        // The one that is plain text, by which scripts know it (spec/sidecar.md 2.3).
        Error::TargetDenied { .. } => ("text/plain; charset=utf-8", error.to_string()),
        _ => ("application/json", json(error, status)),
    };
    let mut response = Response::new(AnswerBody::full(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(ERROR_HEADER, HeaderValue::from_static(error.code()));
    let retry = if error.may_retry() { "true" } else { "false" };
    headers.insert(SHOULD_RETRY, HeaderValue::from_static(retry));
    if matches!(error, Error::BodyTooLarge { .. } | Error::BodyStalled | Error::BodyBroken(_)) {
        // The rest of that body is still on its way; nothing sensible can follow it on this connection.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An error of ours inside an answer that has begun, in the shape of OpenAI's own.
pub fn error_object(error: &Error) -> String {
    let (status, message) = (error.status(), serde_json::Value::from(error.to_string()));
    format!(r#"{{"message":{message},"type":"{}","param":null,"code":{}}}"#, kind(status), status.as_u16())
}

/// The body as vLLM writes it. Spelled out for its order, which people have come to read.
fn json(error: &Error, status: StatusCode) -> String {
    let message = serde_json::Value::from(error.to_string());
    format!(
        r#"{{"object":"error","message":{message},"type":"{}","param":"","code":{}}}"#,
        kind(status),
        status.as_u16()
    )
}

/// `GET /health`: static, says nothing about the decode engine (spec/sidecar.md 7).
pub fn healthy() -> Response<AnswerBody> {
    Response::new(AnswerBody::full(Bytes::new()))
}

/// A redirect to the clean form of a path, query kept; method and body are kept too (307).
pub fn redirect(location: &str) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(http::header::LOCATION, location);
    }
    response
}

fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "BadRequestError",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::REQUEST_TIMEOUT => "RequestTimeout",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::GATEWAY_TIMEOUT => "GatewayTimeout",
        _ => "BadGateway",
    }
}
