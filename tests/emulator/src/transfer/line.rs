//! A connection to another engine's KV, and how its blocks come in.

use std::io;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{Answer, receive, send};
use crate::pool::BlockHold;

/// Longest silence of the other engine, at connect or between two blocks, before a transfer counts as failed.
/// Long enough for a block at any sane `--transfer-rate`, short enough that a dead peer fails a test soon.
pub(crate) const PEER_SILENCE: Duration = Duration::from_secs(10);

/// Most bytes taken in one piece: far above any encoder output here, far below what would hurt.
const MAX_PIECE: usize = 16 << 20;

/// What the other engine grants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) block_bytes: usize,
    pub(crate) blocks: usize,
}

/// An open connection.
pub(crate) struct Line(TcpStream);

impl Line {
    /// Connects to `host:port`.
    pub(crate) async fn connect(host: &str, port: u16) -> io::Result<Self> {
        let socket = within(PEER_SILENCE, TcpStream::connect((host, port))).await?;
        socket.set_nodelay(true)?;
        Ok(Self(socket))
    }

    /// Asks, and waits up to `patience` for the answer.
    pub(crate) async fn ask(&mut self, ask: &impl Serialize, patience: Duration) -> io::Result<Grant> {
        within(PEER_SILENCE, send(&mut self.0, ask)).await?;
        self.answer(patience).await
    }

    /// Waits up to `patience` for an answer.
    pub(crate) async fn answer(&mut self, patience: Duration) -> io::Result<Grant> {
        match within(patience, receive(&mut self.0)).await? {
            Some(Answer::Granted { block_bytes, blocks }) => Ok(Grant { block_bytes, blocks }),
            Some(Answer::Refused { reason }) => Err(refused(reason)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads `wanted` blocks into the front of `hold`; returns the bytes received.
    pub(crate) async fn read_blocks(
        &mut self,
        hold: &mut BlockHold,
        wanted: usize,
        grant: Grant,
        block_bytes: usize,
    ) -> io::Result<u64> {
        check_size(grant.block_bytes, block_bytes)?;
        let mut block = vec![0; block_bytes];
        for index in 0..wanted {
            read_block(&mut self.0, &mut block).await?;
            hold.write_block(index, &block);
        }
        Ok(wanted as u64 * block_bytes as u64)
    }

    /// Reads everything granted, in one piece.
    pub(crate) async fn read_bytes(&mut self, grant: Grant) -> io::Result<Vec<u8>> {
        let size = grant.block_bytes.saturating_mul(grant.blocks);
        if size > MAX_PIECE {
            return Err(refused(format!("{size} bytes in one piece; at most {MAX_PIECE} are taken")));
        }
        let mut bytes = vec![0; size];
        read_block(&mut self.0, &mut bytes).await?;
        Ok(bytes)
    }

    /// The connection itself, for the engine that writes to it.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.0
    }
}

/// Fails unless both engines' blocks have the same size.
pub(crate) fn check_size(theirs: usize, ours: usize) -> io::Result<()> {
    if theirs == ours {
        return Ok(());
    }
    Err(refused(format!("their blocks have {theirs} bytes, ours {ours}")))
}

/// Fills `block` from the wire.
pub(crate) async fn read_block(socket: &mut (impl AsyncRead + Unpin), block: &mut [u8]) -> io::Result<()> {
    within(PEER_SILENCE, socket.read_exact(block)).await.map(drop)
}

/// The other side said no, or would have to.
pub(crate) fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

/// `work`, or an error after `patience`.
pub(crate) async fn within<T>(
    patience: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(patience, work).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nothing came from the other engine within {patience:?}"),
        )
    })?
}
