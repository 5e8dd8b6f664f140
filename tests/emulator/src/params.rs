//! `kv_transfer_params`: what a request asks of the KV cache, and what a prefill answer hands out.
//!
//! The fields and their order are vLLM's pull connector's. A request that claims remote KV but does not say
//! where it is must end in an error, never in a silent local prefill.

use serde::Serialize;
use serde_json::Value;

/// The handle of a finished prefill, as its answer carries it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Handle {
    do_remote_prefill: bool,
    do_remote_decode: bool,
    remote_block_ids: Vec<Vec<u32>>,
    remote_engine_id: String,
    remote_request_id: String,
    remote_host: String,
    remote_port: u16,
    tp_size: u32,
    dcp_size: u32,
    pp_size: u32,
    remote_num_tokens: usize,
    remote_blocks_expiry_time: Option<u64>,
    transfer_mode: &'static str,
    remote_prefill_cached_tokens: usize,
}

/// Token counts of a finished prefill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tokens {
    pub(crate) prompt: usize,
    pub(crate) cached: usize,
}

impl Handle {
    /// The handle of one lease.
    pub(crate) fn new(
        engine: &str,
        request: &str,
        at: (&str, u16),
        blocks: Vec<u32>,
        tokens: Tokens,
    ) -> Self {
        Self {
            do_remote_prefill: true,
            do_remote_decode: false,
            remote_block_ids: vec![blocks],
            remote_engine_id: engine.into(),
            remote_request_id: request.into(),
            remote_host: at.0.into(),
            remote_port: at.1,
            tp_size: 1,
            dcp_size: 1,
            pp_size: 1,
            remote_num_tokens: tokens.prompt,
            remote_blocks_expiry_time: None,
            transfer_mode: "pull",
            remote_prefill_cached_tokens: tokens.cached,
        }
    }
}

/// Where the KV of a decode request lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteKv {
    pub(crate) engine_id: String,
    pub(crate) request_id: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) block_ids: Vec<u32>,
}

/// What a request wants done with the KV of its prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KvIntent {
    /// Compute it, use it, free it.
    Local,
    /// Compute it and hold it for a reader.
    Prefill,
    /// Pull it from another engine.
    Pull(RemoteKv),
    /// Asks for a pull but lacks the named field.
    Unusable(&'static str),
}

impl KvIntent {
    /// Reads the member `kv_transfer_params`, absent or not.
    pub(crate) fn read(params: Option<&Value>) -> Self {
        let Some(params) = params.filter(|params| params.is_object()) else {
            return Self::Local;
        };
        if asks(params, "do_remote_decode") {
            return Self::Prefill;
        }
        if !asks(params, "do_remote_prefill") {
            return Self::Local;
        }
        match RemoteKv::read(params) {
            Ok(remote) => Self::Pull(remote),
            Err(field) => Self::Unusable(field),
        }
    }
}

impl RemoteKv {
    /// Reads the place of leased blocks, or the name of the missing field.
    pub(crate) fn read(params: &Value) -> Result<Self, &'static str> {
        Ok(Self {
            engine_id: text(params, "remote_engine_id")?,
            request_id: text(params, "remote_request_id")?,
            host: text(params, "remote_host")?,
            port: port(params, "remote_port")?,
            block_ids: params.get("remote_block_ids").and_then(flatten).ok_or("remote_block_ids")?,
        })
    }
}

/// A text that says something, or the name of the missing field.
pub(crate) fn text(params: &Value, key: &'static str) -> Result<String, &'static str> {
    let value = params.get(key).and_then(Value::as_str).filter(|value| !value.is_empty());
    value.map(str::to_owned).ok_or(key)
}

/// A port, or the name of the missing field. vLLM hands out a number; some deployments carry it as text.
pub(crate) fn port(params: &Value, key: &'static str) -> Result<u16, &'static str> {
    let port = match params.get(key) {
        Some(Value::String(text)) => text.parse().ok(),
        Some(other) => other.as_u64().and_then(|port| u16::try_from(port).ok()),
        None => None,
    };
    port.filter(|port| *port != 0).ok_or(key)
}

/// Whether a switch is on.
pub(crate) fn asks(params: &Value, key: &str) -> bool {
    params.get(key).and_then(Value::as_bool) == Some(true)
}

/// One KV group as `[[1,2]]`, or the older flat `[1,2]`.
fn flatten(value: &Value) -> Option<Vec<u32>> {
    let mut ids = Vec::new();
    for item in value.as_array()? {
        match item {
            Value::Array(_) => ids.extend(flatten(item)?),
            _ => ids.push(u32::try_from(item.as_u64()?).ok()?),
        }
    }
    Some(ids)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_handle_handed_out_is_a_pull_when_it_comes_back() {
        let handle = Handle::new("e", "r", ("127.0.0.1", 5600), vec![1, 2], Tokens { prompt: 20, cached: 0 });
        let back = serde_json::to_value(handle).unwrap();
        let KvIntent::Pull(remote) = KvIntent::read(Some(&back)) else { panic!("not a pull: {back}") };
        assert_eq!((remote.block_ids, remote.port), (vec![1, 2], 5600));
    }

    #[test]
    fn absent_null_and_empty_params_mean_local() {
        for value in [None, Some(json!(null)), Some(json!({})), Some(json!({"do_remote_prefill": false}))] {
            assert_eq!(KvIntent::read(value.as_ref()), KvIntent::Local);
        }
    }

    #[test]
    fn a_pull_without_an_address_is_unusable_not_local() {
        let params = json!({"do_remote_prefill": true, "remote_engine_id": null, "remote_block_ids": [[1]]});
        assert_eq!(KvIntent::read(Some(&params)), KvIntent::Unusable("remote_engine_id"));
        let params = json!({"do_remote_prefill": true, "remote_engine_id": "e", "remote_request_id": "r",
            "remote_host": "h", "remote_port": 70000, "remote_block_ids": [[1]]});
        assert_eq!(KvIntent::read(Some(&params)), KvIntent::Unusable("remote_port"));
    }
}
