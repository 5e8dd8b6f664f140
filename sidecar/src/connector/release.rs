//! How engines are told to let go of KV: the move that all of vLLM's connectors share, and the one for a decode engine
//! that waits for a prefill that failed.
//!
//! vLLM refuses a request for a model it does not serve before the request is scheduled, and on the way out hands its
//! `kv_transfer_params` to the connector, which tells the prefill engine that the KV is not wanted (spec/vllm.md 4). It is
//! the one request that frees KV and can never read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use kvferry_handoff::Leg;
use kvferry_splice::Chunks;

use crate::request::route::Api;

/// A model that no engine serves.
const NO_SUCH_MODEL: &str = "kvferry-release-no-such-model";

/// A request that makes the engines let go of KV.
#[derive(Debug, Clone)]
pub struct ReleaseRequest {
    /// Which engine it goes to.
    pub to: Leg,
    /// Where to.
    pub path: &'static str,
    /// JSON.
    pub body: Chunks,
    /// Its request id, if it is not the client's.
    pub id: Option<HeaderValue>,
    /// What has to follow once it was taken.
    pub then: Option<Box<Self>>,
    /// Told when its engine turns it down.
    pub refusals: Refusals,
}

/// Whether an engine has turned a release down, for those who make its next attempt. Clones know of the same release.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<AtomicBool>);

impl Refusals {
    /// The engine has answered with an error of its own, or is not there.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ReleaseRequest {
    /// Whether this answer means that the engine took it.
    pub fn is_taken(&self, status: StatusCode) -> bool {
        match self.to {
            // Made to be refused by the model's name (404, on some versions 400). Anything else never got as far as the
            // engine's clean-up.
            Leg::Decode => matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST),
            Leg::Prefill => status.is_success(),
        }
    }
}

/// The prefill once more, for a decode engine that was sent beside one that failed. It holds its blocks until somebody
/// writes them; a prefill under the same request id does. Should there be nobody to write to, `kv` is then released.
pub(super) fn by_prefill_again(
    api: Api,
    body: Chunks,
    id: HeaderValue,
    kv: &[u8],
    refusals: Refusals,
) -> ReleaseRequest {
    let then = Some(Box::new(by_refused_decode(kv)));
    ReleaseRequest { to: Leg::Prefill, path: api.path(), body, id: Some(id), then, refusals }
}

/// The move for `kv`: the `kv_transfer_params` that a decode leg carries, with `do_remote_prefill` true.
pub(super) fn by_refused_decode(kv: &[u8]) -> ReleaseRequest {
    let mut body = Vec::with_capacity(kv.len() + 128);
    body.extend_from_slice(b"{\"model\":\"");
    body.extend_from_slice(NO_SUCH_MODEL.as_bytes());
    body.extend_from_slice(b"\",\"prompt\":[0],\"max_tokens\":1,\"kv_transfer_params\":");
    body.extend_from_slice(kv);
    body.push(b'}');
    let body = Chunks::from(Bytes::from(body));
    ReleaseRequest {
        to: Leg::Decode,
        path: Api::Completions.path(),
        body,
        id: None,
        then: None,
        refusals: Refusals::default(),
    }
}
