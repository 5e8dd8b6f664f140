//! Connectors: one file each, saying what the two legs' bodies look like, what the prefill answer means and how KV that
//! nobody will read is released. The handoff itself, its timing and its failures, is the same for all.

pub mod nixlv2;
mod usage;

use bytes::Bytes;
use kvferry_splice::{Chunks, Malformed};

use crate::request::intake::Intake;
use crate::request::route::Api;

pub use usage::UsageEdit;

/// KV cache that a prefill engine holds for a decode engine: the engines' own parameters, opaque to us, as raw JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvParams(pub Bytes);

/// What a successful prefill answer says.
#[derive(Debug, PartialEq, Eq)]
pub struct PrefillAnswer {
    /// What the decode leg needs to find the KV; `None` if prefill returned nothing.
    pub kv: Option<KvParams>,
    /// Prompt tokens that prefill found in its own cache.
    pub cached_tokens: u64,
}

/// A request that makes the engines let go of KV. Sent to the decode engine.
#[derive(Debug)]
pub struct ReleaseRequest {
    /// Where to.
    pub path: &'static str,
    /// JSON.
    pub body: Bytes,
}

/// Every connector there is.
pub const ALL: [&dyn Connector; 1] = [&nixlv2::NixlV2];

/// The connector that `--kv-connector` names.
pub fn by_name(name: &str) -> Option<&'static dyn Connector> {
    ALL.into_iter().find(|connector| connector.name() == name)
}

/// How two engines hand a request over.
pub trait Connector: std::fmt::Debug + Send + Sync + 'static {
    /// The name in `--kv-connector`.
    fn name(&self) -> &'static str;

    /// Top-level members that its edits need to find.
    fn watch(&self) -> &'static [&'static str];

    /// The prefill leg's body.
    fn prefill_body(&self, api: Api, request: &Intake) -> Chunks;

    /// Reads the prefill leg's answer.
    ///
    /// # Errors
    /// It is no JSON object, which is the prefill engine's fault.
    fn read_prefill(&self, api: Api, answer: &Bytes) -> Result<PrefillAnswer, Malformed>;

    /// The decode leg's body. `kv`: what prefill returned.
    fn decode_body(&self, request: &Intake, kv: Option<&KvParams>) -> Chunks;

    /// The release move for `kv`. It must be harmless if the KV was read or released before, and must never make the
    /// decode engine read KV.
    fn release(&self, kv: &KvParams) -> ReleaseRequest;
}
