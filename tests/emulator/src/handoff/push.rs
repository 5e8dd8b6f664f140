//! NIXL's push mode: the prefill leg answers who it is, the decode leg registers there under the transfer id,
//! and the KV crosses when it is computed, whichever leg comes first.

use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;

use super::key::{Key, Space};
use super::meet::{Meeting, Place};
use super::sink::{Offering, Told};
use super::{Fate, Intent, Origin, rank};
use crate::config::Connector;
use crate::engine::Engine;
use crate::params::{Tokens, asks, port, text};

/// What a push engine's answer says: who it is, and nothing about blocks.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Identity {
    do_remote_prefill: bool,
    do_remote_decode: bool,
    remote_engine_id: String,
    remote_request_id: String,
    remote_host: String,
    remote_port: u16,
    tp_size: u32,
    dcp_size: u32,
    pp_size: u32,
    remote_num_tokens: usize,
    transfer_mode: &'static str,
    remote_prefill_cached_tokens: usize,
}

impl Identity {
    /// The identity of the engine (rank) that offers, in the answer to `request`.
    pub(super) fn new(engine: &Engine, engine_id: &str, request: &str, tokens: Tokens) -> Self {
        Self {
            do_remote_prefill: true,
            do_remote_decode: false,
            remote_engine_id: engine_id.into(),
            remote_request_id: request.into(),
            remote_host: engine.config().host.clone(),
            remote_port: engine.ports.kv,
            tp_size: 1,
            dcp_size: 1,
            pp_size: 1,
            remote_num_tokens: tokens.prompt,
            transfer_mode: "push",
            remote_prefill_cached_tokens: tokens.cached,
        }
    }
}

const PUSH: Connector = Connector::NixlPush;

/// Reads either leg's params.
pub(super) fn read(engine: &Engine, headers: &HeaderMap, params: &Value) -> Option<Intent> {
    // An engine that pulls takes a transfer id for what it is there: nothing.
    if engine.config().connector == Some(Connector::Nixl) {
        return None;
    }
    let named = params.get("transfer_id").is_some();
    let leg = if asks(params, "do_remote_decode") && named {
        prefill(engine, headers, params)
    } else if asks(params, "do_remote_prefill") && (pushes(params) || named && !lists_blocks(params)) {
        decode(params)
    } else {
        return None;
    };
    Some(leg.unwrap_or_else(|field| Intent::lacks(PUSH, field)))
}

fn pushes(params: &Value) -> bool {
    params.get("transfer_mode").and_then(Value::as_str) == Some("push")
}

fn lists_blocks(params: &Value) -> bool {
    params.get("remote_block_ids").and_then(Value::as_array).is_some_and(|ids| !ids.is_empty())
}

fn prefill(engine: &Engine, headers: &HeaderMap, params: &Value) -> Result<Intent, &'static str> {
    let rank = rank::read(headers, engine.config().dp_size).ok_or("x-data-parallel-rank")?;
    let key = Key { space: Space::Transfer, engine: engine.rank_id(rank), id: text(params, "transfer_id")? };
    let offering = Offering { key, keep: engine.config().kv_lease, told: Told::Identity, only_if_cut: false };
    Ok(Intent::hand_out(PUSH, Fate::Offer(offering)))
}

fn decode(params: &Value) -> Result<Intent, &'static str> {
    text(params, "remote_request_id")?;
    let place = Place::Engine {
        host: text(params, "remote_host")?,
        port: port(params, "remote_port")?,
        engine_id: text(params, "remote_engine_id")?,
    };
    let id = text(params, "transfer_id")?;
    let meeting = Meeting { space: Space::Transfer, id, place, releases: true };
    Ok(Intent::receive(PUSH, Origin::Meeting(meeting)))
}
