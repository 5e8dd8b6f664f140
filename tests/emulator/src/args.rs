//! The command line of the binary.

mod handoff;

use std::time::Duration;

use clap::{Parser, ValueEnum};
use kvferry_emulator::{Config, KvLoadFailure, Role, Speeds, ZeroConfig};

use handoff::HandoffArgs;

/// An engine that speaks vLLM's HTTP API and keeps real KV bytes, without a model.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// Which side of a pair it reports to be; any engine serves any request.
    #[arg(long, value_enum, default_value = "both")]
    role: RoleArg,
    /// Address for HTTP and KV.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// HTTP port; 0 picks a free one.
    #[arg(long, default_value_t = 8100)]
    port: u16,
    /// Port that serves KV blocks; 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    kv_port: u16,
    /// The model name served.
    #[arg(long, default_value = "tiny")]
    model: String,
    /// Tokens in a block.
    #[arg(long, default_value_t = 16)]
    block_size: u32,
    /// Blocks in the pool.
    #[arg(long, default_value_t = 8192)]
    num_blocks: u32,
    /// KV bytes of one token.
    #[arg(long, default_value_t = 4096)]
    kv_bytes_per_token: u32,
    /// Prompt tokens per second; 0 = instant.
    #[arg(long, default_value_t = 0)]
    prefill_rate: u64,
    /// Pause between output tokens.
    #[arg(long, default_value = "0ms", value_parser = duration)]
    itl: Duration,
    /// KV bytes per second to a reader; 0 = as fast as the socket.
    #[arg(long, default_value_t = 0)]
    transfer_rate: u64,
    /// How long a finished prefill waits for its reader.
    #[arg(long, default_value = "30s", value_parser = duration)]
    kv_lease: Duration,
    /// What a decode request does when its KV cannot be pulled.
    #[arg(long, value_enum, default_value = "fail")]
    kv_load_failure: KvLoadFailureArg,
    /// The token with which every answer ends by itself (`finish_reason` stop); without it, none does.
    #[arg(long)]
    stop_after: Option<usize>,
    /// Count every prompt token as computed (`cached_tokens` stays 0).
    #[arg(long)]
    no_prefix_cache: bool,
    #[command(flatten)]
    handoff: HandoffArgs,
    /// Serving threads of `--zero`; the full engine always runs on one.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Zero think time: the cheapest answers, no KV, for proxy benches.
    #[arg(long)]
    pub(crate) zero: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleArg {
    Prefill,
    Decode,
    Encode,
    Both,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Prefill => Role::Prefill,
            RoleArg::Decode => Role::Decode,
            RoleArg::Encode => Role::Encode,
            RoleArg::Both => Role::Both,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KvLoadFailureArg {
    Fail,
    Recompute,
}

impl Args {
    /// The full engine's configuration.
    pub(crate) fn config(&self) -> Config {
        let config = Config {
            role: self.role.into(),
            host: self.host.clone(),
            port: self.port,
            kv_port: self.kv_port,
            model: self.model.clone(),
            block_size: self.block_size,
            num_blocks: self.num_blocks,
            kv_bytes_per_token: self.kv_bytes_per_token,
            speeds: Speeds {
                prefill_rate: self.prefill_rate,
                itl_ms: u64::try_from(self.itl.as_millis()).unwrap_or(u64::MAX),
                transfer_rate: self.transfer_rate,
            },
            kv_lease: self.kv_lease,
            kv_load_failure: match self.kv_load_failure {
                KvLoadFailureArg::Fail => KvLoadFailure::Fail,
                KvLoadFailureArg::Recompute => KvLoadFailure::Recompute,
            },
            stop_after: self.stop_after,
            prefix_cache: !self.no_prefix_cache,
            crash_exits_process: true,
            ..Config::default()
        };
        self.handoff.apply(config)
    }

    /// The zero-think engine's configuration.
    pub(crate) fn zero_config(&self) -> ZeroConfig {
        ZeroConfig {
            host: self.host.clone(),
            port: self.port,
            workers: self.workers,
            model: self.model.clone(),
            role: self.role.into(),
        }
    }
}

/// `250ms`, `1.5s`, `2m`, or `0`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a duration; write it like 250ms, 1.5s or 2m");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "" if number == 0.0 => 0.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("0ms"), Ok(Duration::ZERO));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["5", "-1s", "1h", "s", ""] {
            assert!(duration(wrong).unwrap_err().contains("250ms"), "{wrong}");
        }
    }

    #[test]
    fn the_flags_are_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
