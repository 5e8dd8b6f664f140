//! One prompt on its way through the engine: blocks, KV, tokens.
//!
//! The guard here is ownership. A `Sequence` owns its blocks, its place in the running count and, before the
//! pull, its claim on remote KV; dropping it at any point (the client hung up) gives everything back.

use std::io;
use std::sync::{Arc, PoisonError};

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use crate::claim::Claim;
use crate::config::KvLoadFailure;
use crate::engine::Engine;
use crate::error::ApiError;
use crate::kv::{Chain, Digest};
use crate::params::{Handle, RemoteKv, Tokens};
use crate::pool::BlockHold;
use crate::stats::GaugeToken;
use crate::transfer::client::Peer;
use crate::transfer::server::due;

/// Tokens computed before other requests get a turn; about 2 MB of KV at 4 KiB a token, under a millisecond.
const CHUNK: usize = 512;

/// Output tokens made without a pause before other requests get a turn.
const TURN: usize = 32;

/// What happens to the KV of one prompt; [`crate::params::KvIntent`] after the checks.
pub(crate) enum Plan {
    Local,
    Prefill,
    Pull(Claim),
    /// A pull whose params lack this field.
    Unusable(&'static str),
}

/// A prompt that is ready to generate.
pub(crate) struct Sequence {
    engine: Arc<Engine>,
    request: String,
    hold: BlockHold,
    chain: Chain,
    digest: Digest,
    prompt_len: usize,
    produced: usize,
    max_tokens: usize,
    prefill: bool,
    /// Prompt tokens that were not computed here.
    pub(crate) cached_tokens: usize,
    _running: GaugeToken,
    unfinished: Unfinished,
}

/// Counts an abort unless told otherwise.
struct Unfinished(Option<Arc<Engine>>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(engine) = &self.0 {
            engine.stats.aborted.inc();
        }
    }
}

impl Sequence {
    /// Waits for blocks, then computes or pulls the prompt's KV. `request` is the id that clients see.
    ///
    /// # Errors
    /// When the KV could not be pulled and the engine does not recompute.
    pub(crate) async fn start(
        engine: &Arc<Engine>,
        request: String,
        prompt: &[u32],
        max_tokens: usize,
        plan: Plan,
    ) -> Result<Self, ApiError> {
        let arrived = Instant::now();
        let mut unfinished = Unfinished(Some(Arc::clone(engine)));
        let waiting = engine.stats.waiting.enter();
        let prefill = matches!(plan, Plan::Prefill);
        let blocks = engine.pool.blocks_for(prompt.len() + max_tokens);
        let admitted = match plan {
            Plan::Local | Plan::Prefill => Ok((engine.pool.take(blocks).await, false)),
            Plan::Pull(claim) => {
                let wait = engine.pool.take(blocks);
                let hold = claim.keep_alive_during(engine.config().kv_lease, wait).await;
                pull(engine, claim.take(), hold, engine.pool.blocks_for(prompt.len())).await
            }
            Plan::Unusable(field) => {
                Err(ApiError::kv_load(format_args!("kv_transfer_params has no usable {field}")))
            }
        };
        let (mut hold, pulled) = admitted.inspect_err(|_| unfinished.0 = None)?;
        drop(waiting);
        let running = engine.stats.running.enter();
        let (chain, names) = walk(engine, prompt);
        let known = remember(engine, prompt.len(), &names);
        // Pulled tokens count as cached here, as in vLLM without its `remote_prefill_cached_tokens`: a proxy that
        // is to report the prefill's count instead has something to correct.
        let cached_tokens = if pulled { prompt.len() - 1 } else { known };
        count_prompt(engine, prompt.len(), known, pulled);
        if !pulled {
            compute(engine, prompt, cached_tokens, &mut hold).await;
        }
        let digest = read_back(&hold, prompt.len()).await;
        engine.stats.ttft_seconds.observe(arrived.elapsed().as_secs_f64());
        Ok(Self {
            engine: Arc::clone(engine),
            request,
            hold,
            chain,
            digest,
            prompt_len: prompt.len(),
            produced: 0,
            max_tokens,
            prefill,
            cached_tokens,
            _running: running,
            unfinished,
        })
    }

    /// The next output token; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<u32> {
        if self.produced == self.max_tokens {
            return None;
        }
        if self.produced > 0 {
            self.pause().await;
        }
        let token = self.digest.next_token();
        let position = self.prompt_len + self.produced;
        self.produced += 1;
        self.engine.stats.generation_tokens.inc();
        if self.produced < self.max_tokens {
            self.chain.push(token);
            let chain = self.chain;
            self.hold.write_token(position, |kv| chain.fill(kv));
            let digest = &mut self.digest;
            self.hold.read_token(position, |kv| digest.absorb(kv));
        }
        Some(token)
    }

    async fn pause(&self) {
        let itl = self.engine.settings.speeds().itl();
        if !itl.is_zero() {
            sleep(itl).await;
        } else if self.produced.is_multiple_of(TURN) {
            yield_now().await;
        }
    }

    /// Ends the request. A prefill leaves its prompt's blocks under a lease and returns the handle to them.
    pub(crate) fn finish(self) -> Option<Handle> {
        let Self { engine, request, mut hold, prompt_len, prefill, cached_tokens, mut unfinished, .. } = self;
        unfinished.0 = None;
        engine.stats.finished.inc();
        if !prefill {
            engine.stats.decodes.inc();
            return None;
        }
        engine.stats.prefills.inc();
        hold.truncate(engine.pool.blocks_for(prompt_len));
        let blocks = hold.ids().to_vec();
        // As in vLLM, the engine's own id has a random tail: a client that repeats an id gets a lease of its own.
        let lease = format!("{request}-{}", &Uuid::new_v4().simple().to_string()[..8]);
        engine.leases.grant(&lease, hold);
        if engine.settings.faults.take_drop_kv_params() {
            return None;
        }
        let at = (engine.config().host.as_str(), engine.kv_port);
        Some(Handle::new(
            &engine.id,
            &lease,
            at,
            blocks,
            Tokens { prompt: prompt_len, cached: cached_tokens },
        ))
    }
}

/// Pulls in a task of its own: a real transfer, once posted, runs to its end and notifies the other engine even
/// when the request is gone. Returns the blocks and whether they now hold the prompt's KV.
async fn pull(
    engine: &Arc<Engine>,
    remote: RemoteKv,
    mut hold: BlockHold,
    blocks: u32,
) -> Result<(BlockHold, bool), ApiError> {
    let owner = Arc::clone(engine);
    let task = engine.runtime.spawn(async move {
        let outcome = transfer(&owner, &remote, &mut hold, blocks as usize).await;
        if outcome.is_err() {
            owner.stats.pull_refused.inc();
        }
        (hold, outcome)
    });
    let (hold, outcome) = task.await.map_err(ApiError::kv_load)?;
    match (outcome, engine.config().kv_load_failure) {
        (Ok(()), _) => Ok((hold, true)),
        (Err(_), KvLoadFailure::Recompute) => Ok((hold, false)),
        (Err(error), KvLoadFailure::Fail) => Err(ApiError::kv_load(error)),
    }
}

async fn transfer(engine: &Engine, remote: &RemoteKv, hold: &mut BlockHold, blocks: usize) -> io::Result<()> {
    let start = Instant::now();
    let mut peer = Peer::connect(remote).await?;
    let bytes = peer.read_into(hold, blocks, engine.pool.block_bytes()).await?;
    engine.stats.pulled(bytes, start.elapsed());
    // The data is here; a lost notification only means that the other side waits for its lease.
    let _ = peer.release().await;
    Ok(())
}

/// The chain at the end of the prompt, and the names of its full blocks.
fn walk(engine: &Engine, prompt: &[u32]) -> (Chain, Vec<u64>) {
    let mut chain = Chain::new(&engine.config().model);
    let mut names = Vec::with_capacity(prompt.len() / engine.config().block_size as usize);
    for block in prompt.chunks(engine.config().block_size as usize) {
        for token in block {
            chain.push(*token);
        }
        if block.len() == engine.config().block_size as usize {
            names.push(chain.hash());
        }
    }
    (chain, names)
}

/// Prompt tokens covered by known blocks, at least one token short of the prompt; remembers the new blocks.
fn remember(engine: &Engine, prompt_len: usize, names: &[u64]) -> usize {
    if !engine.config().prefix_cache {
        return 0;
    }
    let mut cache = engine.prefix.lock().unwrap_or_else(PoisonError::into_inner);
    let block = engine.config().block_size as usize;
    let hits = cache.leading_hits(names).min((prompt_len - 1) / block);
    cache.remember(names);
    hits * block
}

fn count_prompt(engine: &Engine, prompt_len: usize, known: usize, pulled: bool) {
    let stats = &engine.stats;
    stats.prompt_tokens.add(prompt_len as u64);
    stats.prefix_queries.add(prompt_len as u64);
    stats.prefix_hits.add(known as u64);
    if pulled {
        stats.external_queries.add(prompt_len as u64);
        stats.external_hits.add(prompt_len as u64);
    }
}

/// Writes the prompt's KV, at the pretended speed for the tokens beyond `cached`.
async fn compute(engine: &Engine, prompt: &[u32], cached: usize, hold: &mut BlockHold) {
    let start = Instant::now();
    let mut chain = Chain::new(&engine.config().model);
    for (index, chunk) in prompt.chunks(CHUNK).enumerate() {
        let first = index * CHUNK;
        for (offset, token) in chunk.iter().enumerate() {
            chain.push(*token);
            hold.write_token(first + offset, |kv| chain.fill(kv));
        }
        let computed = (first + chunk.len()).saturating_sub(cached) as u64;
        match due(engine.settings.speeds().prefill_rate, computed) {
            Some(due) => sleep_until(start + due).await,
            None => yield_now().await,
        }
    }
}

/// Digests the KV of the prompt as it lies in memory, whoever wrote it.
async fn read_back(hold: &BlockHold, prompt_len: usize) -> Digest {
    let mut digest = Digest::new();
    for position in 0..prompt_len {
        hold.read_token(position, |kv| digest.absorb(kv));
        if position % CHUNK == CHUNK - 1 {
            yield_now().await;
        }
    }
    digest
}
