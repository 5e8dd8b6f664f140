//! Serves leased, offered and cached blocks, and encoder outputs, to other engines.
//!
//! Every leased block is copied out under a fresh check of its lease, so a lease that ends during a read cuts
//! the transfer short instead of sending memory that was given to someone else.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::send::send_blocks;
use super::wire::{Answer, Ask, What, receive, send};
use crate::engine::Engine;
use crate::handoff::key::{Key, Space};

/// Which port a reader came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// The KV port: every message names the engine it is meant for.
    Kv,
    /// The p2p port: its protocol knows request ids only.
    P2p,
}

/// Answers one reader until it hangs up.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    door: Door,
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(ask) = receive::<Ask>(&mut socket).await? {
        if let Err(reason) = admit(&engine, door, &ask) {
            send(&mut socket, &Answer::Refused { reason }).await?;
            continue;
        }
        match ask.what {
            What::Read { block_ids } => read(&engine, &mut socket, &ask.request_id, &block_ids).await?,
            What::Release => reply(&mut socket, engine.leases.release(&ask.request_id)).await?,
            What::Heartbeat => reply(&mut socket, engine.leases.heartbeat(&ask.request_id)).await?,
            What::Meet { space, blocks } => {
                let key = Key { space, engine: ask.engine_id, id: ask.request_id };
                meet(&engine, &mut socket, &key, blocks).await?;
            }
            What::Cached { names } => cached(&engine, &mut socket, &names).await?,
            What::Encoded => encoded(&engine, &mut socket, &ask.request_id).await?,
        }
    }
    Ok(())
}

/// Whether this message may come through this door.
fn admit(engine: &Engine, door: Door, ask: &Ask) -> Result<(), String> {
    let by_request = matches!(ask.what, What::Cached { .. } | What::Meet { space: Space::Request, .. });
    match door {
        Door::P2p if by_request => Ok(()),
        Door::Kv if by_request => Err("this is the KV port; ask the p2p port".into()),
        Door::P2p => Err("this is the p2p port; ask the KV port".into()),
        Door::Kv if engine.rank_of(&ask.engine_id).is_some() => Ok(()),
        Door::Kv => Err(format!("engine {} is gone; this is {}", ask.engine_id, engine.id)),
    }
}

async fn reply(socket: &mut (impl AsyncWrite + Unpin), done: bool) -> io::Result<()> {
    if !done {
        let reason = "no such lease: released, expired or never granted".into();
        return send(socket, &Answer::Refused { reason }).await;
    }
    send(socket, &Answer::Granted { block_bytes: 0, blocks: 0 }).await
}

async fn read(
    engine: &Engine,
    socket: &mut (impl AsyncWrite + Unpin),
    request: &str,
    blocks: &[u32],
) -> io::Result<()> {
    if let Err(reason) = engine.leases.admit_read(request, blocks) {
        return send(socket, &Answer::Refused { reason }).await;
    }
    let block_bytes = engine.pool.block_bytes();
    send(socket, &Answer::Granted { block_bytes, blocks: blocks.len() }).await?;
    let block = |index: usize| engine.leases.read_block(request, blocks[index]);
    send_blocks(engine, socket, blocks.len(), block).await?;
    engine.leases.mark_read(request);
    Ok(())
}

/// Waits for the offer, sends it, and ends it when the reader says that it has everything.
async fn meet(
    engine: &Arc<Engine>,
    socket: &mut (impl AsyncRead + AsyncWrite + Unpin),
    key: &Key,
    blocks: usize,
) -> io::Result<()> {
    if blocks == 0 {
        engine.meetings.release(key, engine.config().rendezvous_timeout);
        return reply(socket, true).await;
    }
    let lent = {
        let mut byte = [0];
        tokio::select! {
            lent = engine.meetings.take(key) => lent,
            // A waiting reader has nothing to say: whatever comes, it is no longer waiting.
            _ = socket.read(&mut byte) => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    };
    let offered = lent.hold().ids().len();
    if blocks > offered {
        let reason = format!("the prompt needs {blocks} blocks, {offered} are on offer");
        return send(socket, &Answer::Refused { reason }).await;
    }
    send(socket, &Answer::Granted { block_bytes: engine.pool.block_bytes(), blocks }).await?;
    send_blocks(engine, socket, blocks, |index| Some(lent.hold().copy_block(index))).await?;
    match receive::<Ask>(socket).await? {
        Some(Ask { what: What::Release, .. }) => {
            lent.done(true);
            reply(socket, true).await
        }
        // It vanished without a word; the offer goes back.
        _ => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Sends what the host cache has of a prompt, from its start.
async fn cached(engine: &Engine, socket: &mut (impl AsyncWrite + Unpin), names: &[u64]) -> io::Result<()> {
    let found = engine.host_cache.leading(names);
    let block_bytes = engine.pool.block_bytes();
    send(socket, &Answer::Granted { block_bytes, blocks: found.len() }).await?;
    send_blocks(engine, socket, found.len(), |index| Some(found[index].to_vec())).await
}

async fn encoded(engine: &Engine, socket: &mut (impl AsyncWrite + Unpin), hash: &str) -> io::Result<()> {
    let Some(bytes) = engine.outputs.fetch(hash) else {
        return send(socket, &Answer::Refused { reason: "no such encoder output".into() }).await;
    };
    send(socket, &Answer::Granted { block_bytes: bytes.len(), blocks: 1 }).await?;
    send_blocks(engine, socket, 1, |_| Some(bytes.to_vec())).await
}
