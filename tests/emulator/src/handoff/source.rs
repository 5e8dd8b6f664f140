//! Brings the KV of one prompt into the engine's blocks, from wherever the request says.

use std::io;
use std::sync::Arc;

use super::meet::MeetClaim;
use super::nixl;
use crate::claim::Claim;
use crate::config::KvLoadFailure;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::pool::BlockHold;

/// An armed origin: dropping it does what its protocol does for a request that ended before its KV came.
pub(crate) enum Source {
    /// Nowhere; the engine computes.
    Compute,
    /// Another engine's lease.
    Leased(Claim),
    /// Another engine's offer.
    Meeting(MeetClaim),
    /// Nothing that could work, for this reason.
    Unusable(String),
}

/// A prompt's blocks, and how many leading tokens of it they hold already.
pub(crate) struct Obtained {
    pub(crate) hold: BlockHold,
    pub(crate) received: usize,
}

impl Source {
    /// Waits for `blocks` blocks, then for the KV of the `tokens` tokens of the prompt.
    ///
    /// # Errors
    /// When the KV could not be had and the engine does not recompute.
    pub(crate) async fn obtain(
        self,
        engine: &Arc<Engine>,
        blocks: u32,
        tokens: usize,
    ) -> Result<Obtained, ApiError> {
        let wanted = engine.pool.blocks_for(tokens) as usize;
        let (hold, outcome) = match self {
            Self::Compute => return Ok(Obtained { hold: engine.pool.take(blocks).await, received: 0 }),
            Self::Unusable(reason) => return Err(ApiError::kv_load(reason)),
            Self::Leased(claim) => nixl::obtain(engine, claim, blocks, wanted).await?,
            Self::Meeting(claim) => {
                let mut hold = engine.pool.take(blocks).await;
                let outcome = claim.receive(engine, &mut hold, wanted).await;
                (hold, outcome)
            }
        };
        settle(engine, hold, outcome, tokens)
    }
}

/// What a transfer's outcome leads to.
fn settle(
    engine: &Engine,
    hold: BlockHold,
    outcome: io::Result<()>,
    tokens: usize,
) -> Result<Obtained, ApiError> {
    let Err(error) = outcome else {
        return Ok(Obtained { hold, received: tokens });
    };
    match engine.config().kv_load_failure {
        KvLoadFailure::Recompute => Ok(Obtained { hold, received: 0 }),
        KvLoadFailure::Fail => Err(ApiError::kv_load(error)),
    }
}
