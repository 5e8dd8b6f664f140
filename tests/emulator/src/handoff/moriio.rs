//! MoRI-IO's WRITE mode: the prefill engine carries the KV to the decode engine's notify port, where the decode
//! leg waits for it under the transfer id.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::inbox::{Letter, Parcel};
use super::key::{Key, Space};
use super::meet::numbered;
use super::sink::Finished;
use super::{Fate, Intent, Origin};
use crate::config::Connector;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::params::{asks, port, text};
use crate::transfer::line::{Line, PEER_SILENCE};
use crate::transfer::send::send_blocks;

/// Pause before the next try to reach a notify port. The decode engine may be about to start.
const RETRY: Duration = Duration::from_millis(50);

/// Where a prefill leg carries its KV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) transfer_id: String,
    pub(super) rank: u32,
}

impl Address {
    /// The address for the prompt at `index` of a request.
    pub(super) fn at(&self, index: usize) -> Self {
        Self { transfer_id: numbered(&self.transfer_id, index), ..self.clone() }
    }
}

/// What the answer of a writing prefill leg says. It has no transfer id: the proxy made that up and knows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Written {
    do_remote_prefill: bool,
    do_remote_decode: bool,
    remote_block_ids: Vec<Vec<u32>>,
    remote_engine_id: String,
    remote_host: String,
    remote_port: u16,
    tp_size: u32,
    remote_dp_rank: u32,
}

const MORIIO: Connector = Connector::Moriio;

/// Reads either leg's params.
pub(super) fn read(params: &Value) -> Option<Intent> {
    let has = |key: &str| params.get(key).is_some_and(|value| !value.is_null());
    if !has("remote_notify_port") && !has("remote_handshake_port") {
        return None;
    }
    let leg = if asks(params, "do_remote_decode") {
        prefill(params)
    } else if asks(params, "do_remote_prefill") {
        decode(params)
    } else {
        return None;
    };
    Some(leg.unwrap_or_else(|field| Intent::lacks(MORIIO, field)))
}

fn prefill(params: &Value) -> Result<Intent, &'static str> {
    let address = Address {
        host: text(params, "remote_host")?,
        port: port(params, "remote_notify_port")?,
        transfer_id: text(params, "transfer_id")?,
        rank: rank(params)?,
    };
    Ok(Intent::hand_out(MORIIO, Fate::Carry(address)))
}

fn decode(params: &Value) -> Result<Intent, &'static str> {
    let (host, port) = (text(params, "remote_host")?, port(params, "remote_port")?);
    // The engine id of this protocol is the handshake address.
    let engine = Some(text(params, "remote_engine_id")?).filter(|id| *id == format!("{host}:{port}"));
    let letter = Letter {
        transfer_id: text(params, "transfer_id")?,
        engine: engine.ok_or("remote_engine_id")?,
        rank: rank(params)?,
    };
    Ok(Intent::receive(MORIIO, Origin::Letter(letter)))
}

/// The rank, below the other side's number of ranks where that is said.
fn rank(params: &Value) -> Result<u32, &'static str> {
    let number = |key: &str| params.get(key).and_then(Value::as_u64);
    let rank = number("remote_dp_rank").filter(|rank| *rank < number("remote_dp_size").unwrap_or(u64::MAX));
    rank.and_then(|rank| u32::try_from(rank).ok()).ok_or("remote_dp_rank")
}

/// How this engine calls itself in this protocol.
fn own_id(engine: &Engine) -> String {
    format!("{}:{}", engine.config().host, engine.ports.kv)
}

/// Starts to carry the KV over, and says what the answer tells.
pub(super) fn hand_over(
    engine: &Arc<Engine>,
    address: Address,
    finished: Finished,
) -> Result<Written, ApiError> {
    let Finished { mut hold, tokens, .. } = finished;
    hold.truncate(engine.pool.blocks_for(tokens.prompt));
    let written = Written {
        do_remote_prefill: true,
        do_remote_decode: false,
        remote_block_ids: vec![hold.ids().to_vec()],
        remote_engine_id: own_id(engine),
        remote_host: engine.config().host.clone(),
        remote_port: engine.ports.kv,
        tp_size: 1,
        remote_dp_rank: address.rank,
    };
    let key = Key { space: Space::Notify, engine: String::new(), id: address.transfer_id.clone() };
    let keep = engine.config().kv_lease;
    let deadline = Instant::now() + keep;
    engine.meetings.offer(key.clone(), hold, keep).map_err(ApiError::kv_handover)?.detach();
    let owner = Arc::clone(engine);
    engine.tasks.spawn(async move {
        // When the time is up, the offer has ended itself.
        let _ = timeout_at(deadline, carry(&owner, &key, &address)).await;
    });
    Ok(written)
}

/// Tries until the decode engine has it or does not want it.
async fn carry(engine: &Arc<Engine>, key: &Key, address: &Address) {
    while deliver(engine, key, address).await.is_err() {
        sleep(RETRY).await;
    }
}

async fn deliver(engine: &Arc<Engine>, key: &Key, address: &Address) -> std::io::Result<()> {
    let mut line = Line::connect(&address.host, address.port).await?;
    let parcel = Parcel {
        transfer_id: address.transfer_id.clone(),
        engine: own_id(engine),
        rank: address.rank,
        block_bytes: engine.pool.block_bytes(),
    };
    // The deadline of the whole bounds this wait.
    let grant = match line.ask(&parcel, engine.config().kv_lease).await {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            engine.meetings.take(key).await.done(false);
            return Ok(());
        }
        other => other?,
    };
    let lent = engine.meetings.take(key).await;
    let offered = lent.hold().ids().len();
    if grant.blocks > offered {
        // Left as it is: the decode leg hears the end of the connection and says what is wrong.
        lent.done(false);
        return Ok(());
    }
    let block = |index| Some(lent.hold().copy_block(index));
    send_blocks(engine, line.socket(), grant.blocks, block).await?;
    line.answer(PEER_SILENCE).await?;
    lent.done(true);
    Ok(())
}
