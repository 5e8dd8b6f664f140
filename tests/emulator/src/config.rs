//! What one emulated engine is: its role, sizes and speeds.
//!
//! The defaults suit tests (any free port, instant speeds, small KV); the binary's flags choose their own.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::store::SharedStore;

/// Which side of a prefill/decode pair the engine plays. It is reported (header `x-emulator-role`,
/// `/emulator/state`); like vLLM, an engine serves whatever a request asks of it. What depends on it: an sglang
/// room, who fills the shared store, and that an encoder does nothing but encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Computes prompts and hands their KV out.
    Prefill,
    /// Pulls KV and generates.
    Decode,
    /// Turns multimodal parts into bytes for the engine that computes the prompt.
    Encode,
    /// Either, request by request.
    #[default]
    Both,
}

impl Role {
    /// The word used in headers and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Prefill => "prefill",
            Role::Decode => "decode",
            Role::Encode => "encode",
            Role::Both => "both",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A protocol by which a prompt's KV gets from one engine to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connector {
    /// NIXL, the decode engine pulls.
    Nixl,
    /// NIXL, the prefill engine pushes.
    NixlPush,
    /// MoRI-IO, the prefill engine writes.
    Moriio,
    /// Mooncake.
    Mooncake,
    /// vLLM's offloading connector between peers.
    Offloading,
    /// sglang.
    Sglang,
}

impl Connector {
    /// Every protocol.
    pub const ALL: [Self; 6] =
        [Self::Nixl, Self::NixlPush, Self::Moriio, Self::Mooncake, Self::Offloading, Self::Sglang];

    /// The word used in flags and errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nixl => "nixl",
            Self::NixlPush => "nixl-push",
            Self::Moriio => "moriio",
            Self::Mooncake => "mooncake",
            Self::Offloading => "offloading",
            Self::Sglang => "sglang",
        }
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What a decode request does when its KV cannot be pulled (vLLM's `kv_load_failure_policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvLoadFailure {
    /// The request ends with an error. vLLM's default.
    #[default]
    Fail,
    /// The engine computes the prompt itself.
    Recompute,
}

/// How fast the engine pretends to be. Zero means "as fast as this machine allows".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Speeds {
    /// Prompt tokens computed per second; 0 = instant.
    pub prefill_rate: u64,
    /// Pause before each output token but the first, in milliseconds; 0 = none.
    pub itl_ms: u64,
    /// Bytes per second served to a reader of our KV; 0 = what the socket carries.
    pub transfer_rate: u64,
}

impl Speeds {
    /// The pause between two output tokens.
    #[must_use]
    pub fn itl(&self) -> Duration {
        Duration::from_millis(self.itl_ms)
    }
}

/// Everything an emulated engine is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Reported role.
    pub role: Role,
    /// Address to listen on, for HTTP and KV alike, and the `remote_host` handed out.
    pub host: String,
    /// HTTP port; 0 picks a free one.
    pub port: u16,
    /// Port that serves KV blocks; 0 picks a free one. It survives a restart, so that a stale handle
    /// reaches the new engine and is refused there.
    pub kv_port: u16,
    /// Port of the bootstrap server (sglang's `/route`, mooncake's `/query`); 0 picks a free one.
    pub bootstrap_port: u16,
    /// Port that serves KV to engines that know only a request id (offloading); 0 picks a free one.
    pub p2p_port: u16,
    /// Port on which prefill engines deliver KV that they write themselves (MoRI-IO); 0 picks a free one.
    pub notify_port: u16,
    /// The one protocol this engine takes part in; any other is an error. `None`: whichever the fields of a
    /// request name, which is what most tests want.
    pub connector: Option<Connector>,
    /// Data-parallel ranks that the bootstrap server lists, each with an engine id of its own; at least 1.
    pub dp_size: u32,
    /// Where prefill engines leave their prompts' blocks for others, and where every engine looks for the start
    /// of a prompt.
    pub shared_store: Option<SharedStore>,
    /// Where encoders leave their outputs instead of keeping them, and where every engine looks for them.
    pub encoder_store: Option<SharedStore>,
    /// The one model name that is served; any other is answered 404.
    pub model: String,
    /// Tokens in a block; at least 1.
    pub block_size: u32,
    /// Blocks in the pool; at least 1. Memory is taken only for blocks that were written.
    pub num_blocks: u32,
    /// KV bytes of one token; at least 1.
    pub kv_bytes_per_token: u32,
    /// Speeds at start; `POST /emulator/speeds` changes them.
    pub speeds: Speeds,
    /// How long the blocks of a finished prefill wait for their reader.
    pub kv_lease: Duration,
    /// How long a leg waits for its other leg, where the protocol has no lease: a decode request for KV that is
    /// still computed, an sglang prefill for its reader.
    pub rendezvous_timeout: Duration,
    /// How long an answered mooncake prefill waits for its reader.
    pub abort_timeout: Duration,
    /// How long a decode engine keeps the KV of a chat or completion for the next turn, with a handle in the
    /// answer; `None` frees it with the answer.
    pub decoder_kv_ttl: Option<Duration>,
    /// The token with which every answer ends by itself, counted from 1, unless the request forbids that
    /// (`ignore_eos`, `min_tokens`); `None`: none does, and only limits end answers.
    pub stop_after: Option<usize>,
    /// What a failed pull leads to.
    pub kv_load_failure: KvLoadFailure,
    /// Whether prompts are matched against the blocks seen before (`cached_tokens`).
    pub prefix_cache: bool,
    /// Whether the `crash` fault ends the whole process (the binary) or only this emulator (the library).
    pub crash_exits_process: bool,
}

impl Config {
    /// Longest sequence (prompt and output) in tokens: what the whole pool can hold.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.block_size as usize * self.num_blocks as usize
    }

    /// Bytes of one block.
    #[must_use]
    pub fn block_bytes(&self) -> usize {
        self.block_size as usize * self.kv_bytes_per_token as usize
    }

    /// Says what is wrong with the numbers, if anything is.
    ///
    /// # Errors
    /// A sentence for the person who set the flag.
    pub fn check(&self) -> Result<(), String> {
        if self.block_size == 0 || self.num_blocks == 0 || self.kv_bytes_per_token == 0 {
            return Err("block size, number of blocks and KV bytes per token must all be at least 1".into());
        }
        if self.dp_size == 0 {
            return Err("the number of data-parallel ranks must be at least 1".into());
        }
        if self.rendezvous_timeout.is_zero() || self.abort_timeout.is_zero() {
            return Err("a leg must wait for longer than 0, or no two legs could ever meet".into());
        }
        if self.stop_after == Some(0) {
            return Err("an answer that ends by itself has at least 1 token".into());
        }
        if self.kv_lease.is_zero() {
            return Err("the KV lease must be longer than 0, or no decode engine could ever read".into());
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            role: Role::Both,
            host: "127.0.0.1".into(),
            port: 0,
            kv_port: 0,
            bootstrap_port: 0,
            p2p_port: 0,
            notify_port: 0,
            connector: None,
            dp_size: 1,
            shared_store: None,
            encoder_store: None,
            model: "tiny".into(),
            block_size: 16,
            // 2 Mi tokens: a 5 MB prompt fits, and at 64 bytes a token the full pool is 128 MiB.
            num_blocks: 131_072,
            kv_bytes_per_token: 64,
            speeds: Speeds::default(),
            // vLLM's `kv_lease_duration`.
            kv_lease: Duration::from_secs(30),
            rendezvous_timeout: Duration::from_secs(30),
            // vLLM's `VLLM_MOONCAKE_ABORT_REQUEST_TIMEOUT`.
            abort_timeout: Duration::from_secs(480),
            decoder_kv_ttl: None,
            stop_after: None,
            kv_load_failure: KvLoadFailure::Fail,
            prefix_cache: true,
            crash_exits_process: false,
        }
    }
}
