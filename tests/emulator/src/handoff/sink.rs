//! Does with a computed prompt's KV what the request asked for.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::sglang;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::params::{Handle, Tokens};
use crate::pool::BlockHold;

/// The fate of one prompt's KV.
pub(crate) enum Sink {
    /// Freed with the request.
    Free,
    /// Leased to whoever shows the handle.
    Lease,
    /// Offered in this room before the answer.
    Room(String),
}

/// A prompt whose answer is complete.
pub(crate) struct Finished {
    /// The id that clients see.
    pub(crate) request: String,
    /// Its blocks, including those of the output.
    pub(crate) hold: BlockHold,
    pub(crate) tokens: Tokens,
}

/// `kv_transfer_params` of an answer.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum HandedOut {
    /// The handle of a lease.
    Lease(Handle),
}

impl Sink {
    /// Whether this leg computes for another engine.
    pub(crate) fn is_prefill(&self) -> bool {
        !matches!(self, Self::Free)
    }

    /// Hands over what must be handed over before the answer; the rest stays in `hold`.
    ///
    /// # Errors
    /// When nobody fetched it in time.
    pub(crate) async fn deliver(
        &self,
        engine: &Arc<Engine>,
        hold: &mut BlockHold,
        prompt: usize,
    ) -> Result<(), ApiError> {
        match self {
            Self::Free | Self::Lease => Ok(()),
            Self::Room(room) => {
                hold.truncate(engine.pool.blocks_for(prompt));
                sglang::deliver(engine, room, hold.take()).await
            }
        }
    }

    /// Hands over the rest and says what the answer tells about it.
    ///
    /// # Errors
    /// When the KV could not be put where the other leg looks for it.
    pub(crate) fn finish(
        self,
        engine: &Arc<Engine>,
        finished: Finished,
    ) -> Result<Option<HandedOut>, ApiError> {
        let handed_out = match self {
            Self::Free | Self::Room(_) => return Ok(None),
            Self::Lease => HandedOut::Lease(lease(engine, finished)),
        };
        Ok((!engine.settings.faults.take_drop_kv_params()).then_some(handed_out))
    }
}

fn lease(engine: &Engine, finished: Finished) -> Handle {
    let Finished { request, mut hold, tokens } = finished;
    hold.truncate(engine.pool.blocks_for(tokens.prompt));
    let blocks = hold.ids().to_vec();
    // As in vLLM, the engine's own id has a random tail: a client that repeats an id gets a lease of its own.
    let lease = format!("{request}-{}", &Uuid::new_v4().simple().to_string()[..8]);
    engine.leases.grant(&lease, hold);
    Handle::new(&engine.id, &lease, (&engine.config().host, engine.ports.kv), blocks, tokens)
}
