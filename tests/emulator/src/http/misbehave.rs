//! Applies the faults of one request: before the engine sees it, and to the answer.

use std::future::pending;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::sleep;

use super::body::{Body, TRAILER, cut, drip, full, json, with_trailer};
use super::conn::{Conn, Gone};
use crate::error::ApiError;
use crate::faults::Faults;
use crate::server::Shared;

/// Not HTTP by any reading: a TLS alert's first bytes and noise.
const GARBAGE: &[u8] = b"\x15\x03\x01\x00\x02\x02\x28\xff\xfe\x00 this is not HTTP \r\n\r\n";

/// An interim answer.
const EARLY_HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </emulator>; rel=preload\r\n\r\n";

/// Acts before the engine; `Some` is an answer in place of the engine's.
pub(super) async fn before(
    shared: &Arc<Shared>,
    conn: &Conn,
    faults: &Faults,
) -> Result<Option<Response<Body>>, Gone> {
    if faults.delay_ms > 0 {
        sleep(Duration::from_millis(faults.delay_ms)).await;
    }
    if faults.hang {
        return pending().await;
    }
    if faults.crash {
        shared.crash();
        return Err(Gone);
    }
    if faults.reset_before {
        conn.control.reset_on_close();
        return Err(Gone);
    }
    if faults.garbage {
        conn.control.replace(GARBAGE);
        return Ok(Some(Response::new(full(Bytes::new()))));
    }
    if let Some(status) = faults.status {
        return Ok(Some(status_answer(status, faults.body.as_deref())));
    }
    if faults.not_json {
        let mut response = Response::new(full("this is not JSON"));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        return Ok(Some(response));
    }
    Ok(None)
}

fn status_answer(status: u16, body: Option<&str>) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &ApiError::status(status).openai());
    if let Some(body) = body {
        *response.body_mut() = full(body.to_owned());
    }
    response
}

/// Acts on the answer.
pub(super) async fn after(
    conn: &Conn,
    faults: &Faults,
    request: &HeaderMap,
    mut response: Response<Body>,
) -> Result<Response<Body>, Gone> {
    for (name, value) in &faults.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    if faults.gzip {
        response = compress(response).await?;
    }
    if let Some(pause) = faults.drip_ms {
        response = response.map(|body| drip(body, Duration::from_millis(pause)));
    }
    if faults.trailers {
        response.headers_mut().insert(header::TRAILER, HeaderValue::from(TRAILER));
        if !invites_trailers(request) {
            return uninvited(conn, faults, response).await;
        }
        response = response.map(with_trailer);
    }
    if let Some(keep) = faults.reset_after_bytes {
        response = response.map(|body| cut(body, keep, Arc::clone(&conn.control)));
    }
    if faults.early_hints {
        conn.control.inject(EARLY_HINTS);
    }
    Ok(response)
}

/// hyper sends trailers to clients that ask for them.
fn invites_trailers(request: &HeaderMap) -> bool {
    request.get_all(header::TE).iter().any(|te| te.to_str().is_ok_and(|te| te.contains("trailers")))
}

/// Writes the whole answer by hand, since hyper keeps trailers from clients that did not ask, and closes.
async fn uninvited(conn: &Conn, faults: &Faults, response: Response<Body>) -> Result<Response<Body>, Gone> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|_| Gone)?.to_bytes();
    let mut raw = if faults.early_hints { EARLY_HINTS.to_vec() } else { Vec::new() };
    raw.extend_from_slice(format!("HTTP/1.1 {}\r\n", parts.status).as_bytes());
    for (name, value) in &parts.headers {
        raw.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    raw.extend_from_slice(b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    if !body.is_empty() {
        raw.extend_from_slice(format!("{:x}\r\n", body.len()).as_bytes());
        raw.extend_from_slice(&body);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(format!("0\r\n{TRAILER}: done\r\n\r\n").as_bytes());
    conn.control.replace(&raw);
    Ok(Response::new(full(Bytes::new())))
}

async fn compress(response: Response<Body>) -> Result<Response<Body>, Gone> {
    let (mut parts, body) = response.into_parts();
    let plain = body.collect().await.map_err(|_| Gone)?.to_bytes();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = encoder.write_all(&plain).and_then(|()| encoder.finish()).map_err(|_| Gone)?;
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Ok(Response::from_parts(parts, full(packed)))
}
