//! A prompt's tokens, the names of its blocks, and its KV: made here or read back from wherever it came.

use std::sync::PoisonError;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::engine::Engine;
use crate::handoff::shared;
use crate::kv::{Chain, Digest};
use crate::pool::BlockHold;
use crate::transfer::send::due;

/// Tokens computed before other requests get a turn; about 2 MB of KV at 4 KiB a token, under a millisecond.
const CHUNK: usize = 512;

/// A prompt as the engine sees it.
pub(crate) struct Prompt<'a> {
    ids: &'a [u32],
    /// The state after the last token.
    pub(crate) chain: Chain,
    /// The names of the full blocks.
    pub(crate) names: Vec<u64>,
}

/// How much of a prompt needs no computing, in tokens from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Received from elsewhere: these bytes are in the blocks already.
    pub(crate) received: usize,
    /// Known to the prefix cache: these cost no pretended time, and their bytes are made again.
    pub(crate) known: usize,
}

impl<'a> Prompt<'a> {
    /// Walks the tokens once.
    pub(crate) fn new(engine: &Engine, ids: &'a [u32]) -> Self {
        let size = engine.config().block_size as usize;
        let mut chain = Chain::new(&engine.config().model);
        let mut names = Vec::with_capacity(ids.len() / size);
        for block in ids.chunks(size) {
            for token in block {
                chain.push(*token);
            }
            if block.len() == size {
                names.push(chain.hash());
            }
        }
        Self { ids, chain, names }
    }

    /// Tokens.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Tokens covered by blocks that the prefix cache knows, at least one token short of the prompt.
    pub(crate) fn known(&self, engine: &Engine) -> usize {
        let cache = engine.prefix.lock().unwrap_or_else(PoisonError::into_inner);
        let block = engine.config().block_size as usize;
        cache.leading_hits(&self.names).min((self.len() - 1) / block) * block
    }

    /// The share of the prompt, 0 to 1, that need not be computed.
    pub(crate) fn available_share(&self, engine: &Engine) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a ratio of token counts far below 2^53")]
        let share = shared::available(engine, self) as f64 / self.len() as f64;
        share
    }

    /// Makes the blocks known.
    pub(crate) fn remember(&self, engine: &Engine) {
        if engine.config().prefix_cache {
            engine.prefix.lock().unwrap_or_else(PoisonError::into_inner).remember(&self.names);
        }
    }

    /// Writes the KV that was not received, at the pretended speed for what is not known either. A `salt` other
    /// than 0 makes it the KV of no prompt.
    pub(crate) async fn compute(&self, engine: &Engine, share: Share, salt: u64, hold: &mut BlockHold) {
        let start = Instant::now();
        let cached = share.received.max(share.known);
        let mut chain = Chain::new(&engine.config().model).salted(salt);
        for (index, chunk) in self.ids.chunks(CHUNK).enumerate() {
            let first = index * CHUNK;
            for (offset, token) in chunk.iter().enumerate() {
                chain.push(*token);
                if first + offset >= share.received {
                    hold.write_token(first + offset, |kv| chain.fill(kv));
                }
            }
            let computed = (first + chunk.len()).saturating_sub(cached) as u64;
            match due(engine.settings.speeds().prefill_rate, computed) {
                Some(due) => sleep_until(start + due).await,
                None => yield_now().await,
            }
        }
    }

    /// Digests the KV as it lies in memory, whoever wrote it.
    pub(crate) async fn read_back(&self, hold: &BlockHold) -> Digest {
        let mut digest = Digest::new();
        for position in 0..self.len() {
            hold.read_token(position, |kv| digest.absorb(kv));
            if position % CHUNK == CHUNK - 1 {
                yield_now().await;
            }
        }
        digest
    }
}
