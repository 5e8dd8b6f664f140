//! Pulls the blocks of a remote prefill and tells its engine when they are no longer needed.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::wire::{Answer, Ask, What, receive, send};
use crate::params::RemoteKv;
use crate::pool::BlockHold;

/// Longest silence of the other engine, at connect or between two blocks, before a pull counts as failed.
/// Long enough for a block at any sane `--transfer-rate`, short enough that a dead peer fails a test soon.
const PEER_SILENCE: Duration = Duration::from_secs(10);

/// An open connection to the engine that holds the KV.
pub(crate) struct Peer<'a> {
    remote: &'a RemoteKv,
    socket: TcpStream,
}

impl<'a> Peer<'a> {
    /// Connects to where the handle points.
    pub(crate) async fn connect(remote: &'a RemoteKv) -> io::Result<Self> {
        let socket = within(TcpStream::connect((remote.host.as_str(), remote.port))).await?;
        socket.set_nodelay(true)?;
        Ok(Self { remote, socket })
    }

    /// Reads the handle's first `wanted` blocks into `hold`; returns the bytes received.
    pub(crate) async fn read_into(
        &mut self,
        hold: &mut BlockHold,
        wanted: usize,
        block_bytes: usize,
    ) -> io::Result<u64> {
        let Some(block_ids) = self.remote.block_ids.get(..wanted) else {
            let listed = self.remote.block_ids.len();
            return Err(refused(format!("the prompt needs {wanted} blocks, the handle lists {listed}")));
        };
        let theirs = self.ask(What::Read { block_ids: block_ids.to_vec() }).await?;
        if theirs != block_bytes {
            return Err(refused(format!("their blocks have {theirs} bytes, ours {block_bytes}")));
        }
        let mut block = vec![0; block_bytes];
        for index in 0..wanted {
            within(self.socket.read_exact(&mut block)).await?;
            hold.write_block(index, &block);
        }
        Ok(wanted as u64 * block_bytes as u64)
    }

    /// Ends the lease, whether or not anything was read.
    pub(crate) async fn release(&mut self) -> io::Result<()> {
        self.ask(What::Release).await.map(drop)
    }

    /// Prolongs the lease.
    pub(crate) async fn heartbeat(&mut self) -> io::Result<()> {
        self.ask(What::Heartbeat).await.map(drop)
    }

    async fn ask(&mut self, what: What) -> io::Result<usize> {
        let ask = Ask {
            engine_id: self.remote.engine_id.clone(),
            request_id: self.remote.request_id.clone(),
            what,
        };
        within(send(&mut self.socket, &ask)).await?;
        match within(receive(&mut self.socket)).await? {
            Some(Answer::Granted { block_bytes }) => Ok(block_bytes),
            Some(Answer::Refused { reason }) => Err(refused(reason)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Tells the prefill engine that nobody will read: the zero-block notification. Best effort; the lease is
/// the safety net.
pub(crate) async fn release_unread(remote: RemoteKv) {
    if let Ok(mut peer) = Peer::connect(&remote).await {
        let _ = peer.release().await;
    }
}

fn refused(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PEER_SILENCE, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
