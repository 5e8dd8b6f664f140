//! NIXL's pull protocol: the prefill leg leases its blocks, the decode leg reads them under the handle.

use std::io;
use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

use super::{Fate, Intent, Origin};
use crate::claim::Claim;
use crate::config::Connector;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::params::{KvIntent, RemoteKv};
use crate::pool::BlockHold;
use crate::transfer::client::Peer;

/// Reads the fields of the pull protocol.
pub(super) fn read(params: &Value) -> Option<Intent> {
    Some(match KvIntent::read(Some(params)) {
        KvIntent::Local => return None,
        KvIntent::Prefill => Intent::hand_out(Connector::Nixl, Fate::Lease),
        KvIntent::Pull(remote) => Intent::receive(Connector::Nixl, Origin::Leased(remote)),
        KvIntent::Unusable(field) => {
            Intent::unusable(Connector::Nixl, format!("kv_transfer_params has no usable {field}"))
        }
    })
}

/// Waits for blocks under the claim, then pulls the first `wanted` of them.
pub(super) async fn obtain(
    engine: &Arc<Engine>,
    claim: Claim,
    blocks: u32,
    wanted: usize,
) -> Result<(BlockHold, io::Result<()>), ApiError> {
    let wait = engine.pool.take(blocks);
    let hold = claim.keep_alive_during(engine.config().kv_lease, wait).await;
    pull(engine, claim.take(), hold, wanted).await
}

/// Pulls in a task of its own: a real transfer, once posted, runs to its end and notifies the other engine even
/// when the request is gone.
pub(super) async fn pull(
    engine: &Arc<Engine>,
    remote: RemoteKv,
    mut hold: BlockHold,
    wanted: usize,
) -> Result<(BlockHold, io::Result<()>), ApiError> {
    let owner = Arc::clone(engine);
    let task = engine.runtime.spawn(async move {
        let outcome = transfer(&owner, &remote, &mut hold, wanted).await;
        // Counted here, so that a pull whose request is gone counts too.
        if outcome.is_err() {
            owner.stats.pull_refused.inc();
        }
        (hold, outcome)
    });
    task.await.map_err(ApiError::kv_load)
}

async fn transfer(engine: &Engine, remote: &RemoteKv, hold: &mut BlockHold, wanted: usize) -> io::Result<()> {
    let start = Instant::now();
    let mut peer = Peer::connect(remote).await?;
    let bytes = peer.read_into(hold, wanted, engine.pool.block_bytes()).await?;
    engine.stats.pulled(bytes, start.elapsed());
    // The data is here; a lost notification only means that the other side waits for its lease.
    let _ = peer.release().await;
    Ok(())
}
