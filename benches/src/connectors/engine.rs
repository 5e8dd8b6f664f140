//! An engine of a few lines, for what emulators without think time do not answer: the same bytes to every request, and a
//! count of the requests that carry what the side under test is there for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::json;

use super::aside;
use super::chat::REPLY;
use crate::Result;

/// What is worth counting, by a request's body.
type Counts = fn(&[u8]) -> bool;

/// What an engine is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Prefill by vLLM's NixlPushConnector: its answers say who it is. Counts prefills that read a former turn's KV back.
    Pushes,
    /// Decode with bidirectional KV: its answers offer KV. Counts requests that came before prefill had answered.
    Offers,
    /// The bootstrap server beside a Mooncake prefill engine. Counts what it is asked.
    Bootstrap,
}

/// A running engine; its thread ends with the process.
#[derive(Debug)]
pub(super) struct Engine {
    /// Where it listens.
    pub(super) address: SocketAddr,
    counted: Arc<AtomicU64>,
}

impl Engine {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is no port or no thread.
    pub(super) fn start(kind: Kind) -> Result<Self> {
        let counted = Arc::new(AtomicU64::new(0));
        let answers = Arc::new(Answers::new(kind, Arc::clone(&counted)));
        let address = aside::listen("engine", move |stream| {
            let answers = Arc::clone(&answers);
            async move {
                let service = service_fn(|request| answer(&answers, request));
                // The sidecar's end is no event here.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        })?;
        Ok(Self { address, counted })
    }

    /// Requests so far that were worth counting.
    pub(super) fn counted(&self) -> u64 {
        self.counted.load(Ordering::Relaxed)
    }
}

/// The member that names the offer of [`Kind::Offers`].
const OFFERED: &str = "offered-by-decode";

struct Answers {
    body: Bytes,
    counts: Counts,
    counted: Arc<AtomicU64>,
}

impl Answers {
    fn new(kind: Kind, counted: Arc<AtomicU64>) -> Self {
        let (body, counts): (_, Counts) = match kind {
            Kind::Pushes => (completion(&push_identity()), |body| holds(body, OFFERED)),
            Kind::Offers => {
                (completion(&offer()), |body| holds(body, "\"push\"") && !holds(body, "remote_block_ids"))
            }
            Kind::Bootstrap => (json!({"0": {"engine_id": "prefill-0", "worker_addr": {}}}), |_| true),
        };
        Self { body: Bytes::from(body.to_string()), counts, counted }
    }
}

fn holds(body: &[u8], what: &str) -> bool {
    memchr::memmem::find(body, what.as_bytes()).is_some()
}

/// A whole chat completion that ended by itself.
fn completion(kv: &serde_json::Value) -> serde_json::Value {
    json!({"id": "chatcmpl-zero", "object": "chat.completion", "created": 1_700_000_000, "model": "tiny",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": REPLY}, "logprobs": null,
            "finish_reason": "stop", "stop_reason": null}],
        "usage": {"prompt_tokens": 128, "total_tokens": 129, "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 64}},
        "kv_transfer_params": kv})
}

fn push_identity() -> serde_json::Value {
    json!({"do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [[1, 2, 3, 4, 5, 6, 7, 8]],
        "remote_engine_id": "prefill-0", "remote_request_id": "chatcmpl-zero-0", "remote_host": "127.0.0.1",
        "remote_port": 5600, "tp_size": 1, "remote_num_tokens": 128, "transfer_mode": "push"})
}

fn offer() -> serde_json::Value {
    json!({"do_remote_prefill": false, "do_remote_decode": true, "remote_block_ids": [[1, 2, 3, 4, 5, 6, 7, 8]],
        "remote_engine_id": OFFERED, "remote_request_id": "chatcmpl-zero-0", "remote_host": "127.0.0.1",
        "remote_port": 5601, "tp_size": 1, "remote_num_tokens": 129, "transfer_mode": "pull"})
}

async fn answer(
    answers: &Answers,
    mut request: Request<Incoming>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let health = request.method() == Method::GET && request.uri().path() == "/health";
    let body =
        request.body_mut().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    if !health && (answers.counts)(&body) {
        answers.counted.fetch_add(1, Ordering::Relaxed);
    }
    let mut response = Response::new(Full::new(answers.body.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::process::http_client;

    /// What an engine counts of these bodies, one after the other.
    async fn counted(kind: Kind, bodies: &[&'static str]) -> Vec<u64> {
        let engine = Engine::start(kind).unwrap();
        let (client, url) = (http_client().unwrap(), format!("http://{}", engine.address));
        assert!(client.get(format!("{url}/health")).send().await.unwrap().status().is_success());
        let mut counts = Vec::new();
        for body in bodies {
            let before = engine.counted();
            let answer = client.post(format!("{url}/v1/chat/completions")).body(*body).send().await.unwrap();
            let answer: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            assert!(answer.is_object());
            counts.push(engine.counted() - before);
        }
        counts
    }

    #[tokio::test]
    async fn a_decode_leg_beside_prefill_is_told_from_one_after_it() {
        let early = r#"{"kv_transfer_params":{"transfer_mode":"push","transfer_id":"x"}}"#;
        let late = r#"{"kv_transfer_params":{"transfer_mode":"push","remote_block_ids":[[1]]}}"#;
        assert_eq!(counted(Kind::Offers, &[early, late, "{}"]).await, [1, 0, 0]);
    }

    #[tokio::test]
    async fn a_prefill_that_reads_kv_back_is_told_from_one_that_does_not() {
        let back = r#"{"kv_transfer_params":{"remote_engine_id":"offered-by-decode"}}"#;
        assert_eq!(counted(Kind::Pushes, &[back, "{}"]).await, [1, 0]);
    }

    #[tokio::test]
    async fn questions_to_the_bootstrap_server_are_counted_and_health_is_none() {
        let engine = Engine::start(Kind::Bootstrap).unwrap();
        let get = async |path| {
            let url = format!("http://{}{path}", engine.address);
            http_client().unwrap().get(url).send().await.unwrap().text().await.unwrap()
        };
        get("/health").await;
        assert_eq!(engine.counted(), 0);
        let ranks: serde_json::Value = serde_json::from_str(&get("/query").await).unwrap();
        assert_eq!(ranks["0"]["engine_id"], "prefill-0");
        assert_eq!(engine.counted(), 1);
    }
}
