//! A decode request's claim on remote KV, from the moment its body was understood until the pull starts.
//!
//! Dropping an armed claim sends the zero-block release to the prefill engine. That is vLLM's behaviour for a
//! request that is rejected at the serving layer or aborted before it was scheduled, and the move by which a
//! sidecar frees KV that nobody will read. A claim also keeps the lease alive while the request waits.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::params::RemoteKv;
use crate::transfer::client::{Peer, release_unread};

/// Heartbeats per lease length, as vLLM's decode side sends them.
const BEATS_PER_LEASE: u32 = 6;

/// The right to pull, and the duty to release.
pub(crate) struct Claim {
    remote: Option<RemoteKv>,
    runtime: Handle,
}

impl Claim {
    /// Arms a claim; a release, if it comes to that, runs on `runtime`.
    pub(crate) fn new(remote: RemoteKv, runtime: Handle) -> Self {
        Self { remote: Some(remote), runtime }
    }

    /// Hands the claim to the pull, which now owes the notification.
    pub(crate) fn take(mut self) -> RemoteKv {
        self.remote.take().expect("an armed claim is taken once, by value")
    }

    /// Does `wait` while prolonging the lease on the other engine.
    pub(crate) async fn keep_alive_during<T>(&self, lease: Duration, wait: impl Future<Output = T>) -> T {
        let beat = async {
            loop {
                if let Some(remote) = &self.remote
                    && let Ok(mut peer) = Peer::connect(remote).await
                {
                    // A refusal means that the lease is gone; the pull will find out and say so.
                    let _ = peer.heartbeat().await;
                }
                sleep(lease / BEATS_PER_LEASE).await;
            }
        };
        tokio::select! {
            // The wait first: where there is none, no heartbeat is due either.
            biased;
            done = wait => done,
            () = beat => unreachable!("the heartbeat loop has no end"),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(remote) = self.remote.take() {
            self.runtime.spawn(release_unread(remote));
        }
    }
}
