//! Mooncake's protocol: the prefill leg answers at once and keeps its KV under a transfer id; the decode leg
//! finds the engine in the bootstrap server's list and waits for it.

use http::HeaderMap;
use serde_json::Value;

use super::key::{Key, Space};
use super::meet::{Meeting, Place};
use super::sink::{Offering, Told};
use super::{Fate, Intent, Origin, rank};
use crate::config::Connector;
use crate::engine::Engine;
use crate::params::{asks, text};

/// Reads either leg's params.
pub(super) fn read(engine: &Engine, headers: &HeaderMap, params: &Value) -> Option<Intent> {
    if asks(params, "do_remote_decode") && params.get("transfer_id").is_some() && is_ours(engine, params) {
        return Some(prefill(engine, headers, params).unwrap_or_else(|field| Intent::lacks(MOONCAKE, field)));
    }
    if asks(params, "do_remote_prefill") && params.get("remote_bootstrap_addr").is_some() {
        return Some(decode(params).unwrap_or_else(|field| Intent::lacks(MOONCAKE, field)));
    }
    None
}

const MOONCAKE: Connector = Connector::Mooncake;

/// NIXL's push mode has a transfer id too; its legs carry NIXL's other fields, be it with no value.
fn is_ours(engine: &Engine, params: &Value) -> bool {
    match engine.config().connector {
        None => params.get("remote_engine_id").is_none() && params.get("remote_notify_port").is_none(),
        Some(connector) => connector == MOONCAKE,
    }
}

fn prefill(engine: &Engine, headers: &HeaderMap, params: &Value) -> Result<Intent, &'static str> {
    let rank = rank::read(headers, engine.config().dp_size).ok_or("x-data-parallel-rank")?;
    let key = Key { space: Space::Transfer, engine: engine.rank_id(rank), id: text(params, "transfer_id")? };
    // vLLM hands over only what its length limit ended.
    let keep = engine.config().abort_timeout;
    let offering = Offering { key, keep, told: Told::Nothing, only_if_cut: true };
    Ok(Intent::hand_out(MOONCAKE, Fate::Offer(offering)))
}

fn decode(params: &Value) -> Result<Intent, &'static str> {
    let place = Place::Listed {
        url: text(params, "remote_bootstrap_addr")?,
        engine_id: text(params, "remote_engine_id")?,
    };
    let id = text(params, "transfer_id")?;
    let meeting = Meeting { space: Space::Transfer, id, place, releases: true };
    Ok(Intent::receive(MOONCAKE, Origin::Meeting(meeting)))
}
