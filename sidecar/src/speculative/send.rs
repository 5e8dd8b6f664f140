//! Sends the next turn and forgets what comes back: what counts is the KV that it leaves in the engine's cache.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::BodyExt;
use kvferry_contract::Endpoint;
use kvferry_contract::headers::REQUEST_ID;
use kvferry_splice::Chunks;

use super::Turn;
use crate::connector::Outgoing;
use crate::request::Asked;
use crate::request::headers::ensure_request_id;
use crate::request::intake::Intake;
use crate::request::route::Api;
use crate::upstream::{LegBody, Upstream};

/// How long it may take. A user who reads the answer and writes the next turn takes about as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has the engines that served `turn` compute `body`. `prefiller`: who prefilled it; `None`: the decode engine itself.
pub(super) async fn next_turn(
    turn: &Turn,
    prefiller: Option<Arc<Endpoint>>,
    body: Chunks,
) -> Result<(), String> {
    tokio::select! {
        biased;
        () = turn.worker.stopping.cancelled() => Err("the sidecar stops".to_owned()),
        done = tokio::time::timeout(PATIENCE, legs(turn, prefiller, body)) => {
            done.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
        }
    }
}

async fn legs(turn: &Turn, prefiller: Option<Arc<Endpoint>>, body: Chunks) -> Result<(), String> {
    let legs = &turn.worker.legs;
    let settings = &turn.worker.settings;
    let (headers, id) = headers(&turn.headers);
    let decoder = &turn.rank.decoder;
    let Some(prefiller) = prefiller else {
        return leg(turn, &legs.decode, decoder, &headers, body.into()).await;
    };
    let intake = Intake::of(body, settings.watch).map_err(|malformed| malformed.to_string())?;
    let asked = Asked {
        api: Api::ChatCompletions,
        intake,
        headers: headers.clone(),
        id,
        kv_source: None,
        port: turn.rank.port,
    };
    match settings.connector.pair(&asked, &prefiller) {
        None => {
            let plain = asked.intake.body.into();
            leg(turn, &legs.prefill, &prefiller, &headers, plain).await
        }
        // The first that fails takes the other down: it would wait for its pair.
        Some([prefill, decode]) => tokio::try_join!(
            leg(turn, &legs.prefill, &prefiller, &headers, prefill),
            leg(turn, &legs.decode, decoder, &headers, decode),
        )
        .map(drop),
    }
}

/// Those of the turn, under an id that tells the two apart.
fn headers(of_turn: &HeaderMap) -> (HeaderMap, HeaderValue) {
    let mut headers = of_turn.clone();
    for name in [EXPECT, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let id = [ensure_request_id(&mut headers).as_bytes(), b"-next"].concat();
    let id = HeaderValue::from_bytes(&id).expect("a header value with plain letters behind it is one, too");
    headers.insert(REQUEST_ID, id.clone());
    (headers, id)
}

async fn leg(
    turn: &Turn,
    upstream: &Upstream,
    engine: &Arc<Endpoint>,
    headers: &HeaderMap,
    leg: Outgoing,
) -> Result<(), String> {
    let sent = upstream.send(engine, || {
        let mut request = Request::new(LegBody::from(leg.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(turn.path_and_query.clone());
        let mut headers = headers.clone();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(leg.body.len()));
        headers.extend(leg.headers.iter().cloned());
        *request.headers_mut() = headers;
        request
    });
    let failed = |how: String| format!("{engine}: {how}");
    let mut sent = sent.await.map_err(|how| failed(how.to_string()))?;
    let status = sent.response.status();
    if !status.is_success() {
        return Err(failed(format!("it answered {status}")));
    }
    while let Some(frame) = sent.response.body_mut().frame().await {
        frame.map_err(|error| failed(error.to_string()))?;
    }
    sent.lease.recycle();
    Ok(())
}
