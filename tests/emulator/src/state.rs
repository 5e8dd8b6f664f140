//! The report of `GET /emulator/state`: what the engine holds, and why. Tests read it as a type.

use serde::{Deserialize, Serialize};

/// What the engine is and holds right now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Changes at every restart.
    pub engine_id: String,
    /// `prefill`, `decode` or `both`.
    pub role: String,
    /// The block pool.
    pub blocks: BlockState,
    /// Requests inside the engine.
    pub requests: RequestState,
    /// Prefills that wait for their reader, oldest first.
    pub leases: Vec<LeaseState>,
    /// Encoder outputs.
    #[serde(default)]
    pub encoder: EncoderState,
    /// Counters since the engine (re)started.
    pub totals: Totals,
}

impl State {
    /// Whether nothing is held and nothing runs: what every test should end with.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.blocks.free == self.blocks.total
            && self.requests == RequestState::default()
            && self.leases.is_empty()
            && self.encoder.pinned == 0
    }
}

/// The block pool in numbers of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// All blocks.
    pub total: u32,
    /// Blocks nobody holds.
    pub free: u32,
    /// Blocks in use, by reason.
    pub held: HeldState,
}

/// Why blocks are held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldState {
    /// By requests that compute, pull or generate.
    pub running: u32,
    /// By finished prefills whose reader has not come yet.
    pub leased: u32,
}

/// Requests inside the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestState {
    /// Computing or generating.
    pub running: u64,
    /// Waiting for blocks or for remote KV.
    pub waiting: u64,
}

/// What an encoder keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderState {
    /// Outputs that wait for their first reader.
    pub pinned: usize,
    /// Outputs that could be fetched, pinned or not.
    pub cached: usize,
}

/// One live lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// The `remote_request_id` that was handed out.
    pub request_id: String,
    /// Blocks it holds.
    pub blocks: u32,
    /// Milliseconds since the prefill finished.
    pub age_ms: u64,
}

/// Counters since the engine (re)started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Prefills that ended with a lease.
    pub prefills: u64,
    /// Requests that generated their answer to the end without leaving a lease.
    pub decodes: u64,
    /// Pulls that brought all blocks.
    pub pulls: u64,
    /// KV bytes those pulls brought.
    pub pull_bytes: u64,
    /// Pulls that failed or were refused by the other engine.
    pub pull_refused: u64,
    /// Leases ended by the notification that follows a complete read.
    pub releases_after_read: u64,
    /// Leases ended by a notification without a complete read.
    pub releases_without_read: u64,
    /// Leases that ran out.
    pub expired: u64,
    /// Requests whose client left before the end, or that were aborted.
    pub aborted: u64,
    /// Prompts that this engine computed from their first token, with nothing received from anywhere. A decode
    /// engine whose handoffs all work has none.
    #[serde(default)]
    pub computed_prompts: u64,
    /// Prompts whose start came from a `remote_kv_source`.
    #[serde(default)]
    pub source_hits: u64,
    /// Sources that had nothing of the prompt.
    #[serde(default)]
    pub source_misses: u64,
    /// Sources that could not be asked.
    #[serde(default)]
    pub source_failures: u64,
    /// Prompts whose start came from a decode engine that had kept the last turn.
    #[serde(default)]
    pub reuse_pulls: u64,
    /// Last turns not asked for, since they were about to be freed.
    #[serde(default)]
    pub reuse_expired: u64,
    /// Blocks loaded from the shared store.
    #[serde(default)]
    pub store_loaded: u64,
    /// Blocks saved to the shared store.
    #[serde(default)]
    pub store_saved: u64,
    /// Prompts declined because less of them was cached than their `cache_hit_threshold`.
    #[serde(default)]
    pub declined: u64,
    /// Parts that this engine encoded for others.
    #[serde(default)]
    pub encoder_outputs: u64,
    /// Parts whose bytes came from an encoder.
    #[serde(default)]
    pub encoder_fetched: u64,
    /// Parts whose bytes came from the encoder store.
    #[serde(default)]
    pub encoder_loaded: u64,
    /// Parts that this engine had to encode for its own prompts. None, where an encode stage works.
    #[serde(default)]
    pub encoded_here: u64,
}
