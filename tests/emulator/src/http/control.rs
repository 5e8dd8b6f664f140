//! The routes under `/emulator/` that steer the emulator. They are neither recorded nor subject to faults.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::json as value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::body::{Body, full, json};
use super::conn::{Conn, Gone};
use crate::api;
use crate::error::ApiError;
use crate::server::Shared;

/// Largest control body in bytes; a fault set with a long `body` fits.
const MAX_BODY: usize = 16 << 20;

/// Whether this path steers the emulator. `/emulator/echo` is an ordinary route to the client.
pub(super) fn owns(path: &str) -> bool {
    path.starts_with("/emulator/") && path != "/emulator/echo"
}

/// Answers a control request.
pub(super) async fn handle(
    shared: &Shared,
    conn: &Conn,
    request: Request<Incoming>,
) -> Result<Response<Body>, Gone> {
    let path = request.uri().path().to_owned();
    let post = request.method() == Method::POST;
    let faults = &shared.settings.faults;
    Ok(match (path.as_str(), post) {
        ("/emulator/state", false) => json(StatusCode::OK, &shared.engine().state()),
        ("/emulator/requests", false) => {
            json(StatusCode::OK, &shared.seen.last(wanted_count(request.uri().query())))
        }
        ("/emulator/faults", false) => json(StatusCode::OK, &faults.get()),
        ("/emulator/faults", true) => match read(request).await? {
            Ok(set) => {
                faults.set(set);
                json(StatusCode::OK, &faults.get())
            }
            Err(error) => api::error(&error),
        },
        ("/emulator/speeds", false) => json(StatusCode::OK, &shared.settings.speeds()),
        ("/emulator/speeds", true) => match read(request).await? {
            Ok(speeds) => {
                shared.settings.set_speeds(speeds);
                json(StatusCode::OK, &speeds)
            }
            Err(error) => api::error(&error),
        },
        ("/emulator/restart", true) => {
            shared.restart(Some(conn.id));
            json(StatusCode::OK, &value!({"engine_id": shared.engine().id}))
        }
        ("/emulator/upgrade", _) => upgrade(request),
        _ => api::error(&ApiError::not_found()),
    })
}

fn wanted_count(query: Option<&str>) -> usize {
    query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .find_map(|pair| pair.strip_prefix("last=")?.parse().ok())
        .unwrap_or(usize::MAX)
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> Result<Result<T, ApiError>, Gone> {
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await.map_err(|_| Gone)?.to_bytes();
    Ok(serde_json::from_slice(&body).map_err(|error| ApiError::schema(error.to_string())))
}

/// Switches to a protocol in which every byte comes back.
fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        return api::error(&ApiError::status(StatusCode::UPGRADE_REQUIRED));
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgraded.await else { return };
        let mut stream = TokioIo::new(stream);
        let mut buffer = vec![0; 8192];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
        let _ = stream.shutdown().await;
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    response
}
