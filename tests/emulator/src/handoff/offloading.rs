//! The offloading connector between peers: a prefill leg keeps its KV under a request id on the p2p port, a
//! decode leg fetches it there; and either may first take the cached start of its prompt from a third engine.

use std::io;

use serde_json::Value;

use super::key::{Key, Space};
use super::meet::{Meeting, Place};
use super::sink::{Offering, Told};
use super::{Fate, Intent, Origin};
use crate::config::Connector;
use crate::engine::Engine;
use crate::params::{port, text};
use crate::pool::BlockHold;
use crate::transfer::line::{Line, PEER_SILENCE};
use crate::transfer::wire::{Ask, What};

/// An engine that may have the start of a prompt in its cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvSource {
    request_id: String,
    host: String,
    port: u16,
}

const OFFLOADING: Connector = Connector::Offloading;

/// Reads `remote_decoder` and `remote_prefiller`.
pub(super) fn read(engine: &Engine, params: &Value) -> Option<Intent> {
    let leg = if let Some(prefiller) = member(params, "remote_prefiller") {
        fetch(prefiller)
    } else {
        keep(engine, member(params, "remote_decoder")?)
    };
    Some(leg.unwrap_or_else(|field| Intent::lacks(OFFLOADING, field)))
}

/// Reads `remote_kv_source`, which may stand beside the fields of any protocol.
pub(super) fn read_source(params: &Value) -> Option<Result<KvSource, &'static str>> {
    member(params, "remote_kv_source").map(peer)
}

fn member<'a>(params: &'a Value, key: &str) -> Option<&'a Value> {
    params.get(key).filter(|value| !value.is_null())
}

fn fetch(prefiller: &Value) -> Result<Intent, &'static str> {
    let KvSource { request_id, host, port } = peer(prefiller)?;
    let place = Place::P2p { host, port };
    let meeting = Meeting { space: Space::Request, id: request_id, place, releases: true };
    Ok(Intent::receive(OFFLOADING, Origin::Meeting(meeting)))
}

fn keep(engine: &Engine, decoder: &Value) -> Result<Intent, &'static str> {
    let key = Key { space: Space::Request, engine: String::new(), id: text(decoder, "kv_request_id")? };
    let offering = Offering { key, keep: engine.config().kv_lease, told: Told::Nothing, only_if_cut: false };
    Ok(Intent::hand_out(OFFLOADING, Fate::Offer(offering)))
}

fn peer(value: &Value) -> Result<KvSource, &'static str> {
    Ok(KvSource {
        request_id: text(value, "kv_request_id")?,
        host: text(value, "remote_host")?,
        port: port(value, "remote_port")?,
    })
}

impl KvSource {
    /// Fills the front of `hold` with what the source has of a prompt; returns the blocks that came. Whatever
    /// goes wrong is counted and means nothing came: the engine computes.
    pub(super) async fn fetch(&self, engine: &Engine, names: &[u64], hold: &mut BlockHold) -> usize {
        let stats = &engine.stats;
        match self.try_fetch(engine, names, hold).await {
            Ok(0) => stats.source_misses.inc(),
            Ok(blocks) => {
                stats.source_hits.inc();
                return blocks;
            }
            Err(_) => stats.source_failures.inc(),
        }
        0
    }

    async fn try_fetch(&self, engine: &Engine, names: &[u64], hold: &mut BlockHold) -> io::Result<usize> {
        let mut line = Line::connect(&self.host, self.port).await?;
        let (engine_id, request_id) = (String::new(), self.request_id.clone());
        let ask = Ask { engine_id, request_id, what: What::Cached { names: names.to_vec() } };
        let grant = line.ask(&ask, PEER_SILENCE).await?;
        let blocks = grant.blocks.min(names.len());
        line.read_blocks(hold, blocks, grant, engine.pool.block_bytes()).await?;
        Ok(blocks)
    }
}
