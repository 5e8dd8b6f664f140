//! KV that goes back: a decode engine keeps the blocks of its prompt and answer, and the prefill engine of the
//! conversation's next turn takes them instead of computing them again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use super::sink::Finished;
use super::{Origin, nixl};
use crate::config::KvLoadFailure;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::lease;
use crate::params::{RemoteKv, asks};
use crate::pool::BlockHold;

/// How long before their end kept blocks are no longer read, as vLLM has it: a read must not outlast them.
const MARGIN: Duration = Duration::from_secs(5);

/// Another engine's blocks of the start of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Past {
    remote: RemoteKv,
    tokens: usize,
    /// Seconds since 1970.
    expiry: Option<f64>,
}

/// The handle in a decode answer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kept {
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
    remote_blocks_expiry_time: f64,
    transfer_mode: &'static str,
}

/// Reads the blocks that a prefill leg's params offer, if they list any.
pub(super) fn read(params: &Value) -> Option<Origin> {
    let listed = params.get("remote_block_ids").and_then(Value::as_array).is_some_and(|ids| !ids.is_empty());
    if !listed || !asks(params, "do_remote_decode") {
        return None;
    }
    let past = RemoteKv::read(params).and_then(|remote| {
        let tokens = params.get("remote_num_tokens").and_then(Value::as_u64);
        let tokens = tokens.and_then(|tokens| usize::try_from(tokens).ok()).filter(|tokens| *tokens > 0);
        let expiry = params.get("remote_blocks_expiry_time").and_then(Value::as_f64);
        Ok(Past { remote, tokens: tokens.ok_or("remote_num_tokens")?, expiry })
    });
    Some(match past {
        Ok(past) => Origin::Past(past),
        Err(field) => Origin::Unusable(format!("the blocks of the last turn have no usable {field}")),
    })
}

impl Past {
    /// Fills the start of `hold`; returns the tokens that came.
    ///
    /// # Errors
    /// When they could not be had and the engine does not recompute.
    pub(super) async fn obtain(
        &self,
        engine: &Arc<Engine>,
        hold: BlockHold,
        prompt: usize,
    ) -> Result<(BlockHold, usize), ApiError> {
        if self.expiry.is_some_and(|expiry| now() + MARGIN.as_secs_f64() > expiry) {
            engine.stats.reuse_expired.inc();
            return Ok((hold, 0));
        }
        let tokens = self.tokens.min(prompt);
        let blocks = engine.pool.blocks_for(tokens) as usize;
        let (hold, outcome) = nixl::pull(engine, self.remote.clone(), hold, blocks).await?;
        match (outcome, engine.config().kv_load_failure) {
            (Ok(()), _) => {
                engine.stats.reuse_pulls.inc();
                Ok((hold, tokens))
            }
            (Err(_), KvLoadFailure::Recompute) => Ok((hold, 0)),
            (Err(error), KvLoadFailure::Fail) => Err(ApiError::kv_load(error)),
        }
    }
}

/// Keeps the blocks of a finished answer for `ttl` at most.
pub(super) fn keep(engine: &Arc<Engine>, finished: Finished, ttl: Duration) -> Kept {
    let Finished { request, mut hold, tokens, produced, .. } = finished;
    // The last token was never computed with, so it has no KV.
    let held = tokens.prompt + produced.saturating_sub(1);
    hold.truncate(engine.pool.blocks_for(held));
    let blocks = hold.ids().to_vec();
    let lease = lease::name(&request);
    engine.leases.grant_for(&lease, hold, ttl);
    Kept {
        do_remote_prefill: false,
        do_remote_decode: true,
        remote_block_ids: vec![blocks],
        remote_engine_id: engine.id.clone(),
        remote_request_id: lease,
        remote_host: engine.config().host.clone(),
        remote_port: engine.ports.kv,
        tp_size: 1,
        dcp_size: 1,
        pp_size: 1,
        remote_num_tokens: held,
        remote_blocks_expiry_time: now() + ttl.as_secs_f64(),
        transfer_mode: "pull",
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
