//! Brings the KV of one prompt into the engine's blocks, from wherever the request says.

use std::io;
use std::sync::Arc;

use super::inbox::LetterClaim;
use super::meet::MeetClaim;
use super::nixl;
use super::offloading::KvSource;
use super::reuse::Past;
use crate::claim::Claim;
use crate::config::KvLoadFailure;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::pool::BlockHold;
use crate::prompt::Prompt;

/// An armed origin: dropping it does what its protocol does for a request that ended before its KV came.
pub(crate) enum Source {
    /// Nowhere; the engine computes.
    Compute,
    /// Another engine's lease.
    Leased(Claim),
    /// Another engine's offer.
    Meeting(MeetClaim),
    /// A parcel that another engine carries here.
    Letter(LetterClaim),
    /// What another engine kept of the conversation's last turn; the engine computes the rest.
    Past(Past),
    /// The cache of another engine, for the start; the engine computes the rest.
    Cached(KvSource),
    /// Nothing that could work, for this reason.
    Unusable(String),
}

/// A prompt's blocks, and how many leading tokens of it they hold already.
pub(crate) struct Obtained {
    pub(crate) hold: BlockHold,
    pub(crate) received: usize,
}

impl Source {
    /// Whether a prompt of which nothing is cached would be computed here.
    pub(crate) fn computes(&self) -> bool {
        matches!(self, Self::Compute | Self::Cached(_) | Self::Past(_))
    }

    /// Waits for `blocks` blocks, then for the KV of the prompt.
    ///
    /// # Errors
    /// When the KV could not be had and the engine does not recompute.
    pub(crate) async fn obtain(
        self,
        engine: &Arc<Engine>,
        blocks: u32,
        prompt: &Prompt<'_>,
    ) -> Result<Obtained, ApiError> {
        let wanted = engine.pool.blocks_for(prompt.len()) as usize;
        let (hold, outcome) = match self {
            Self::Compute => return Ok(Obtained { hold: engine.pool.take(blocks).await, received: 0 }),
            Self::Unusable(reason) => return Err(ApiError::kv_load(reason)),
            Self::Leased(claim) => nixl::obtain(engine, claim, blocks, wanted).await?,
            Self::Meeting(claim) => {
                let mut hold = engine.pool.take(blocks).await;
                let outcome = claim.receive(&mut hold, wanted).await;
                (hold, outcome)
            }
            Self::Letter(claim) => {
                let mut hold = engine.pool.take(blocks).await;
                let outcome = claim.receive(&mut hold, wanted).await;
                (hold, outcome)
            }
            Self::Past(past) => {
                let hold = engine.pool.take(blocks).await;
                let (hold, received) = past.obtain(engine, hold, prompt.len()).await?;
                return Ok(Obtained { hold, received });
            }
            Self::Cached(source) => {
                let mut hold = engine.pool.take(blocks).await;
                let came = source.fetch(engine, &prompt.names, &mut hold).await;
                return Ok(Obtained { hold, received: came * engine.config().block_size as usize });
            }
        };
        settle(engine, hold, outcome, prompt.len())
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
