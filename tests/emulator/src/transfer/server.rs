//! Serves leased blocks to other engines.
//!
//! Every block is copied out under a fresh check of its lease, so a lease that ends during a read cuts the
//! transfer short instead of sending memory that was given to someone else.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use super::wire::{Answer, Ask, What, receive, send};
use crate::engine::Engine;

/// Answers one reader until it hangs up.
pub(crate) async fn serve(
    engine: Arc<Engine>,
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    while let Some(ask) = receive::<Ask>(&mut socket).await? {
        if ask.engine_id != engine.id {
            let reason = format!("engine {} is gone; this is {}", ask.engine_id, engine.id);
            send(&mut socket, &Answer::Refused { reason }).await?;
            continue;
        }
        match ask.what {
            What::Read { block_ids } => read(&engine, &mut socket, &ask.request_id, &block_ids).await?,
            What::Release => reply(&mut socket, engine.leases.release(&ask.request_id)).await?,
            What::Heartbeat => reply(&mut socket, engine.leases.heartbeat(&ask.request_id)).await?,
        }
    }
    Ok(())
}

async fn reply(socket: &mut (impl AsyncWrite + Unpin), done: bool) -> io::Result<()> {
    let answer = if done {
        Answer::Granted { block_bytes: 0 }
    } else {
        Answer::Refused { reason: "no such lease: released, expired or never granted".into() }
    };
    send(socket, &answer).await
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
    send(socket, &Answer::Granted { block_bytes }).await?;
    let mut corrupt = engine.settings.faults.take_corrupt_kv();
    let start = Instant::now();
    let mut sent: u64 = 0;
    for id in blocks {
        let mut block = engine.leases.read_block(request, *id).ok_or_else(|| {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the lease ended during the read")
        })?;
        if std::mem::take(&mut corrupt) {
            // The first byte belongs to the first token, which every prompt has.
            block[0] ^= 1;
        }
        socket.write_all(&block).await?;
        sent += block.len() as u64;
        if let Some(due) = due(engine.settings.speeds().transfer_rate, sent) {
            sleep_until(start + due).await;
        }
    }
    engine.leases.mark_read(request);
    Ok(())
}

/// How long `amount` units take at `rate` per second; `None` when unlimited.
pub(crate) fn due(rate: u64, amount: u64) -> Option<std::time::Duration> {
    if rate == 0 {
        return None;
    }
    let nanos = u128::from(amount) * 1_000_000_000 / u128::from(rate);
    Some(std::time::Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}
