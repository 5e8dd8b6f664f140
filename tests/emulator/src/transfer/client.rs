//! Pulls the blocks of a remote prefill and tells its engine when they are no longer needed.

use std::io;

use super::line::{Grant, Line, PEER_SILENCE, refused};
use super::wire::{Ask, What};
use crate::params::RemoteKv;
use crate::pool::BlockHold;

/// An open connection to the engine that holds the KV.
pub(crate) struct Peer<'a> {
    remote: &'a RemoteKv,
    line: Line,
}

impl<'a> Peer<'a> {
    /// Connects to where the handle points.
    pub(crate) async fn connect(remote: &'a RemoteKv) -> io::Result<Self> {
        Ok(Self { remote, line: Line::connect(&remote.host, remote.port).await? })
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
        let grant = self.ask(What::Read { block_ids: block_ids.to_vec() }).await?;
        self.line.read_blocks(hold, wanted, grant, block_bytes).await
    }

    /// Ends the lease, whether or not anything was read.
    pub(crate) async fn release(&mut self) -> io::Result<()> {
        self.ask(What::Release).await.map(drop)
    }

    /// Prolongs the lease.
    pub(crate) async fn heartbeat(&mut self) -> io::Result<()> {
        self.ask(What::Heartbeat).await.map(drop)
    }

    async fn ask(&mut self, what: What) -> io::Result<Grant> {
        let ask = Ask {
            engine_id: self.remote.engine_id.clone(),
            request_id: self.remote.request_id.clone(),
            what,
        };
        self.line.ask(&ask, PEER_SILENCE).await
    }
}

/// Tells the prefill engine that nobody will read: the zero-block notification. Best effort; the lease is
/// the safety net.
pub(crate) async fn release_unread(remote: RemoteKv) {
    if let Ok(mut peer) = Peer::connect(&remote).await {
        let _ = peer.release().await;
    }
}
