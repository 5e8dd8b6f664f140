//! Writes blocks to another engine, at the pretended speed and with the faults in force.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

use crate::engine::Engine;

/// Writes `count` blocks; `block` makes the copy of each at the moment it is sent, or says that it is gone.
pub(crate) async fn send_blocks(
    engine: &Engine,
    socket: &mut (impl AsyncWrite + Unpin),
    count: usize,
    mut block: impl FnMut(usize) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let mut corrupt = count > 0 && engine.settings.faults.take_corrupt_kv();
    let start = Instant::now();
    let mut sent: u64 = 0;
    for index in 0..count {
        let mut block = block(index).ok_or_else(|| {
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
