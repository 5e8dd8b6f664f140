//! Pair warm-up: when a prefill engine is first seen, a tiny request is run through the pair, so that the engines' own
//! handshake (two seconds were seen) is paid by nobody.
//!
//! Engines are seen in routing headers and in the allowlist's pool. What is run is an ordinary disaggregated request of
//! ours, through the same code as everybody's, but it counts in no metric of requests and leaves no log line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Uri};
use http_body_util::BodyExt;
use kvferry_contract::Endpoint;
use kvferry_contract::headers::REQUEST_ID;
use kvferry_metrics::{Disaggregation, PeerState, WarmUp as Outcome};
use kvferry_splice::{Chunks, scan};
use tokio::sync::mpsc;

use crate::exchange::{self, LegRequest};
use crate::record::Record;
use crate::request::Asked;
use crate::request::intake::Intake;
use crate::request::route::Api;
use crate::upstream::LegBody;
use crate::worker::{Rank, Worker};

/// Engines remembered at most; more than any prefill pool has.
const MAX_PEERS: usize = 1024;

/// Engines that wait for their turn. Beyond this a pool's users pay for the handshakes themselves.
const MAX_WAITING: usize = 256;

/// Longest that one warm-up may take: an engine's first request pays several seconds of its own warm-up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than a block of any engine, so that KV is really moved.
const PROMPT: &str = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen \
    seventeen eighteen nineteen twenty one two three four five six seven eight nine ten eleven twelve thirteen fourteen \
    fifteen sixteen seventeen eighteen nineteen twenty";

/// Who is known, and how to have the others warmed up.
#[derive(Debug)]
pub struct WarmUp {
    known: Mutex<HashMap<Arc<Endpoint>, PeerState>>,
    waiting: mpsc::Sender<Arc<Endpoint>>,
    queue: Mutex<Option<mpsc::Receiver<Arc<Endpoint>>>>,
}

impl Default for WarmUp {
    fn default() -> Self {
        let (waiting, queue) = mpsc::channel(MAX_WAITING);
        Self { known: Mutex::default(), waiting, queue: Mutex::new(Some(queue)) }
    }
}

impl WarmUp {
    /// This engine was named; if that is the first time, it will be warmed up.
    pub fn seen(&self, worker: &Worker, peer: &Arc<Endpoint>) {
        let mut known = lock(&self.known);
        if known.contains_key(peer) {
            return;
        }
        if known.len() >= MAX_PEERS || self.waiting.try_send(Arc::clone(peer)).is_err() {
            worker.metrics.warmed_up(Outcome::Skipped);
            return;
        }
        known.insert(Arc::clone(peer), PeerState::New);
    }

    /// This engine failed: it may be another one by now, with whom no hands were shaken.
    pub fn forget(&self, peer: &Arc<Endpoint>) {
        let mut known = lock(&self.known);
        if known.get(peer) == Some(&PeerState::Warm) {
            known.remove(peer);
        }
    }

    /// How many engines are in which state.
    pub fn states(&self) -> Vec<PeerState> {
        lock(&self.known).values().copied().collect()
    }

    fn set(&self, peer: &Arc<Endpoint>, state: Option<PeerState>) {
        let mut known = lock(&self.known);
        match state {
            Some(state) => known.insert(Arc::clone(peer), state),
            None => known.remove(peer),
        };
    }

    /// Warms up whoever waits, one after the other, for as long as the process serves. Only the first call does anything.
    pub async fn work(self: Arc<Self>, worker: Arc<Worker>) {
        let Some(mut queue) = lock(&self.queue).take() else { return };
        let mut pool = worker.settings.allowlist.subscribe();
        loop {
            tokio::select! {
                peer = queue.recv() => match peer {
                    Some(peer) => self.pairs(&worker, &peer).await,
                    None => return,
                },
                // An allowlist that follows no pool never changes.
                Ok(()) = pool.changed() => {
                    let peers: Arc<[Endpoint]> = pool.borrow_and_update().clone();
                    for peer in peers.iter() {
                        self.seen(&worker, &Arc::new(peer.clone()));
                    }
                }
            }
        }
    }

    async fn pairs(&self, worker: &Arc<Worker>, peer: &Arc<Endpoint>) {
        self.set(peer, Some(PeerState::Warming));
        let mut failed = None;
        for rank in &worker.settings.ranks {
            let pair = tokio::time::timeout(PATIENCE, pair(worker, peer, rank));
            if let Err(error) = pair.await.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                failed = Some(error);
            }
        }
        worker.metrics.warmed_up(if failed.is_none() { Outcome::Ok } else { Outcome::Failed });
        match failed {
            None => {
                tracing::info!(target = %peer, "prefill engine is warm: it has handed KV to the decode engine");
                self.set(peer, Some(PeerState::Warm));
            }
            Some(error) => {
                tracing::warn!(target = %peer, error, "prefill engine could not be warmed up");
                self.set(peer, None);
            }
        }
    }
}

/// Runs one request through this pair.
async fn pair(worker: &Arc<Worker>, peer: &Arc<Endpoint>, rank: &Arc<Rank>) -> Result<(), String> {
    let model = model(worker, rank).await?;
    let body =
        Bytes::from(serde_json::json!({ "model": model, "prompt": PROMPT, "max_tokens": 1 }).to_string());
    let document = scan(&body, worker.settings.watch).map_err(|malformed| malformed.to_string())?;
    let id = HeaderValue::from_str(&format!("warm-up-{}", uuid::Uuid::new_v4()))
        .map_err(|error| error.to_string())?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REQUEST_ID, id.clone());
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    let api = Api::Completions;
    let intake = Intake { body: Chunks::from(body), document };
    let request = LegRequest {
        asked: Asked { api, intake, headers, id, kv_source: None, port: rank.port },
        disaggregation: Some(Disaggregation::PrefillDecode),
        encoded: false,
        since: std::time::Instant::now(),
        targets: vec![Arc::clone(peer)],
        path_and_query: PathAndQuery::from_static(api.path()),
        interim: None,
        rank: Arc::clone(rank),
    };
    let answer = exchange::serve(Arc::clone(worker), request, Record::quiet(worker, api)).await;
    let status = answer.status();
    answer.into_body().collect().await.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(()) } else { Err(format!("the pair answered {status}")) }
}

/// A model that the decode engine serves.
async fn model(worker: &Worker, rank: &Rank) -> Result<String, String> {
    let sent = worker.legs.decode.send(&rank.decoder, || {
        let mut request = Request::new(LegBody::empty());
        *request.uri_mut() = Uri::from_static("/v1/models");
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
        request
    });
    let sent = sent.await.map_err(|how| format!("the decode engine's models are not known: {how}"))?;
    let body = sent.response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    sent.lease.recycle();
    let models: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let model = models["data"][0]["id"].as_str();
    model.map(str::to_owned).ok_or_else(|| "the decode engine serves no model".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
