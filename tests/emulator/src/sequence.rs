//! One prompt on its way through the engine: blocks, KV, tokens.
//!
//! The guard here is ownership. A `Sequence` owns its blocks, its place in the running count and, until the KV
//! is there, its claim on another engine's; dropping it at any point (the client hung up) gives everything back.

use std::sync::Arc;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::engine::Engine;
use crate::error::ApiError;
use crate::finish::Finish;
use crate::handoff::{Finished, HandedOut, Plan, Sink, shared};
use crate::kv::{Chain, Digest};
use crate::params::Tokens;
use crate::pool::BlockHold;
use crate::prompt::{Prompt, Share};
use crate::stats::GaugeToken;

/// Output tokens made without a pause before other requests get a turn.
const TURN: usize = 32;

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
    sink: Sink,
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
    /// Waits for blocks, then computes or receives the prompt's KV. `request` is the id that clients see.
    ///
    /// `None` when the plan wants more of the prompt to be cached than is.
    ///
    /// # Errors
    /// When the KV could not be had and the engine does not recompute, or could not be handed over.
    pub(crate) async fn start(
        engine: &Arc<Engine>,
        request: String,
        ids: &[u32],
        max_tokens: usize,
        plan: Plan,
    ) -> Result<Option<Self>, ApiError> {
        let arrived = Instant::now();
        let mut unfinished = Unfinished(Some(Arc::clone(engine)));
        let waiting = engine.stats.waiting.enter();
        let Plan { source, sink, threshold, needs } = plan;
        let prompt = Prompt::new(engine, ids);
        if source.computes() && threshold.is_some_and(|least| prompt.available_share(engine) < least) {
            unfinished.0 = None;
            engine.stats.declined.inc();
            return Ok(None);
        }
        let blocks = engine.pool.blocks_for(prompt.len() + max_tokens);
        let obtained = source.obtain(engine, blocks, &prompt).await;
        let mut obtained = obtained.inspect_err(|_| unfinished.0 = None)?;
        drop(waiting);
        let running = engine.stats.running.enter();
        let hold = &mut obtained.hold;
        if obtained.received == 0 {
            obtained.received = shared::load(engine, &prompt, hold);
        }
        let share = Share { received: obtained.received, known: prompt.known(engine) };
        prompt.remember(engine);
        // Received tokens count as cached here, as in vLLM without its `remote_prefill_cached_tokens`: a proxy that
        // is to report the prefill's count instead has something to correct.
        let cached_tokens = share.received.max(share.known).min(prompt.len() - 1);
        engine.stats.prompt(prompt.len(), share);
        if share.received < prompt.len() {
            let salt = match needs {
                Some(needs) => needs.gather(engine).await.inspect_err(|_| unfinished.0 = None)?,
                None => 0,
            };
            prompt.compute(engine, share, salt, hold).await;
        }
        shared::save(engine, &prompt, hold);
        engine.host_cache.keep(&prompt.names, |index| hold.copy_block(index));
        let digest = prompt.read_back(hold).await;
        sink.deliver(engine, hold, prompt.len()).await.inspect_err(|_| unfinished.0 = None)?;
        engine.stats.ttft_seconds.observe(arrived.elapsed().as_secs_f64());
        Ok(Some(Self {
            engine: Arc::clone(engine),
            request,
            hold: obtained.hold,
            chain: prompt.chain,
            digest,
            prompt_len: prompt.len(),
            produced: 0,
            max_tokens,
            sink,
            cached_tokens,
            _running: running,
            unfinished,
        }))
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

    /// Ends the request, for this reason. A leg that computes for another engine leaves its prompt's blocks to it, and returns
    /// what its answer says about them.
    ///
    /// # Errors
    /// When the blocks could not be handed over.
    pub(crate) fn finish(self, finish: Finish) -> Result<Option<HandedOut>, ApiError> {
        let Self { engine, request, hold, prompt_len, produced, sink, cached_tokens, mut unfinished, .. } =
            self;
        unfinished.0 = None;
        engine.stats.finished.inc();
        if sink.is_prefill() {
            engine.stats.prefills.inc();
        } else {
            engine.stats.decodes.inc();
        }
        let tokens = Tokens { prompt: prompt_len, cached: cached_tokens };
        sink.finish(&engine, Finished { request, hold, tokens, produced, finish })
    }
}
