//! The release move that all of vLLM's connectors share.
//!
//! vLLM refuses a request for a model it does not serve before the request is scheduled, and on the way out hands its
//! `kv_transfer_params` to the connector, which tells the prefill engine that the KV is not wanted (spec/vllm.md 4). It is
//! the one request that frees KV and can never read it.

use bytes::Bytes;

use crate::request::route::Api;

/// A model that no engine serves.
const NO_SUCH_MODEL: &str = "kvferry-release-no-such-model";

/// A request that makes the engines let go of KV. Sent to the decode engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// Where to.
    pub path: &'static str,
    /// JSON.
    pub body: Bytes,
}

/// The move for `kv`: the `kv_transfer_params` that a decode leg carries, with `do_remote_prefill` true.
pub(super) fn by_refused_decode(kv: &[u8]) -> ReleaseRequest {
    let mut body = Vec::with_capacity(kv.len() + 128);
    body.extend_from_slice(b"{\"model\":\"");
    body.extend_from_slice(NO_SUCH_MODEL.as_bytes());
    body.extend_from_slice(b"\",\"prompt\":[0],\"max_tokens\":1,\"kv_transfer_params\":");
    body.extend_from_slice(kv);
    body.push(b'}');
    ReleaseRequest { path: Api::Completions.path(), body: body.into() }
}
