//! How engines are told to let go of KV: the move that all of vLLM's connectors share, and the one for a decode engine
//! that waits for a prefill that failed.
//!
//! vLLM refuses a request for a model it does not serve before the request is scheduled, and on the way out hands its
//! `kv_transfer_params` to the connector, which tells the prefill engine that the KV is not wanted (spec/vllm.md 4). It is
//! the one request that frees KV and can never read it.

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
pub(super) fn by_prefill_again(api: Api, body: Chunks, id: HeaderValue, kv: &[u8]) -> ReleaseRequest {
    let then = Some(Box::new(by_refused_decode(kv)));
    ReleaseRequest { to: Leg::Prefill, path: api.path(), body, id: Some(id), then }
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
    ReleaseRequest { to: Leg::Decode, path: Api::Completions.path(), body, id: None, then: None }
}
