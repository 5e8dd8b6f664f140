//! The command line of `kvferry-bench transfer` and `preflight`: the one place that lists what can be asked for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use kvferry_bench_common::Result;

use crate::control::Secret;
use crate::pattern::Order;
use crate::programs::Programs;
use crate::size;

const ROLE: &str = "Role (one of them)";
const SIDES: &str = "Sides";
const WORK: &str = "Work";
const HOW: &str = "How it is measured";
const FILES: &str = "Files";

/// How fast KV blocks move between two processes, over every fabric, beside what the machine could do at most.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
#[command(
    override_usage = "kvferry-bench transfer <--local | --connect HOST:PORT,.. | --serve IP:PORT> [OPTIONS]"
)]
#[command(group = ArgGroup::new("role").required(true).args(["local", "connect", "serve", "worker"]))]
pub struct TransferArgs {
    /// Both ends here, in processes of their own.
    #[arg(long, help_heading = ROLE)]
    pub local: bool,
    /// Drive; the other end is a host that runs --serve. Several hosts make one-to-many.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', help_heading = ROLE)]
    pub connect: Vec<String>,
    /// Serve one session at a time until stopped; for other addresses than 127.0.0.1 with --secret-file only.
    #[arg(long, value_name = "IP:PORT", help_heading = ROLE)]
    pub serve: Option<SocketAddr>,
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
    /// The most memory of a session's workers that --serve lends.
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = bytes, help_heading = ROLE)]
    pub max_bytes: u64,
    /// File with words that both hosts know; at least 16 bytes.
    #[arg(long, value_name = "FILE", help_heading = ROLE)]
    pub secret_file: Option<PathBuf>,

    /// Fabrics: shm, tcp, ucx, nixl; `ucx:tcp` or `nixl:cma+tcp` for certain transports, `ucx!` to keep progress from sleeping.
    #[arg(long = "backend", value_name = "NAMES", value_delimiter = ',', default_value = "shm,tcp", help_heading = SIDES)]
    pub backends: Vec<String>,
    /// Other engines on the same work, in the same run; --local only.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = SIDES)]
    pub compare: Vec<Compared>,
    /// Threads that copy or make progress, in each process of a fabric and of memcpy.
    #[arg(long, default_value_t = 1, help_heading = SIDES)]
    pub threads: usize,
    /// Streams to each peer, of tcp and of its ceiling.
    #[arg(long, default_value_t = 2, help_heading = SIDES)]
    pub streams: usize,
    /// One driver, so many driven peers.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = SIDES)]
    pub peers: usize,
    /// So many drivers of the same peer.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "peers", help_heading = SIDES)]
    pub drivers: usize,
    /// No ceilings (memcpy, plain sockets) beside the fabrics.
    #[arg(long, help_heading = SIDES)]
    pub no_ceilings: bool,
    /// Python with NIXL and Mooncake; $VIRTUAL_ENV or .venv if there is one.
    #[arg(long, value_name = "FILE", help_heading = SIDES)]
    pub python: Option<PathBuf>,
    /// libucp.so.0; that of the Python environment, else the first that is found.
    #[arg(long, value_name = "FILE", help_heading = SIDES)]
    pub ucx_library: Option<PathBuf>,
    /// libnixl_capi.so; likewise.
    #[arg(long, value_name = "FILE", help_heading = SIDES)]
    pub nixl_library: Option<PathBuf>,
    /// UCX's tool; the one beside the library.
    #[arg(long, value_name = "FILE", help_heading = SIDES)]
    pub ucx_perftest: Option<PathBuf>,

    /// All goals of docs/benchmarks.md and nothing else: minutes, or less with --quick. --local only.
    #[arg(long, conflicts_with_all = ["model", "block_bytes", "connect", "serve"], help_heading = WORK)]
    pub scorecard: bool,
    /// A sequence of this model's KV cache.
    #[arg(long, conflicts_with = "block_bytes", help_heading = WORK)]
    pub model: Option<String>,
    /// Tokens of the sequence.
    #[arg(long, default_value_t = 8192, help_heading = WORK)]
    pub tokens: u64,
    /// Tokens of a block; FROM:TO where the giving and the taking engine differ.
    #[arg(long, value_name = "TOKENS[:TOKENS]", default_value = "16", help_heading = WORK)]
    pub block_size: String,
    /// Memory order of the cache: hnd, nhd, block-hnd, lbhnc, blhnc, ...; FROM:TO where they differ.
    #[arg(long, value_name = "NAME[:NAME]", default_value = "hnd", help_heading = WORK)]
    pub layout: String,
    /// Tensor-parallel ranks; SIZE/RANK for another than the first, FROM:TO where they differ.
    #[arg(long, value_name = "SIZE[/RANK][:..]", default_value = "1", help_heading = WORK)]
    pub tp: String,
    /// A cache of one byte a number.
    #[arg(long, help_heading = WORK)]
    pub fp8: bool,
    /// Raw blocks of these sizes: 16KiB,64KiB or a sweep 4KiB-1GiB (times four).
    #[arg(long, value_name = "SIZES", value_delimiter = ',', help_heading = WORK)]
    pub block_bytes: Vec<String>,
    /// How many raw blocks; as many as make 128 MiB, but 2048 at most.
    #[arg(long, help_heading = WORK)]
    pub count: Option<u64>,
    /// How blocks follow one another.
    #[arg(long, value_enum, default_value_t = Order::Strided, help_heading = WORK)]
    pub order: Order,
    /// Which way bytes go.
    #[arg(long, value_enum, default_value_t = Ops::Read, help_heading = WORK)]
    pub op: Ops,
    /// Blocks of one transfer; 0 for all.
    #[arg(long, default_value_t = 0, help_heading = WORK)]
    pub batch: usize,
    /// Transfers in flight.
    #[arg(long, default_value_t = 1, help_heading = WORK)]
    pub depth: usize,
    /// Let the fabric check what arrives.
    #[arg(long, help_heading = WORK)]
    pub checksum: bool,

    /// Rounds that count, each with every side once, in turns.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = HOW)]
    pub rounds: u16,
    /// A round repeats the work for so long.
    #[arg(long, value_name = "MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(0..=60_000), help_heading = HOW)]
    pub window_ms: u64,
    /// Compare every byte at its destination, before and after the rounds.
    #[arg(long, help_heading = HOW)]
    pub verify: bool,
    /// Change one byte on purpose while verifying: the run must fail.
    #[arg(long, requires = "verify", help_heading = HOW)]
    pub flip: bool,
    /// Leave all sides alone for so long at the end and tell what they cost meanwhile.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60), help_heading = HOW)]
    pub idle: u64,
    /// Fewer and shorter rounds: a look, not a figure to quote.
    #[arg(long, help_heading = HOW)]
    pub quick: bool,

    /// Folder for transfer.{json,csv,svg,html}.
    #[arg(long, default_value = "target/bench", help_heading = FILES)]
    pub out: PathBuf,
    /// No progress bar.
    #[arg(long, help_heading = FILES)]
    pub quiet: bool,
}

/// Which ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ops {
    /// From the peer.
    Read,
    /// To the peer.
    Write,
    /// Each.
    Both,
}

/// Other engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compared {
    /// NIXL's Python agent: as vLLM sets it up, the same over TCP, and at its best over TCP.
    NixlPython,
    /// Mooncake's engine over TCP, lanes and slices swept.
    Mooncake,
    /// UCX's own tool.
    #[value(name = "ucx_perftest")]
    UcxPerftest,
}

/// Every pair of hosts, both ways: which of them cannot reach which, or is slower than the others.
#[derive(Debug, Clone, Args)]
pub struct PreflightArgs {
    /// Hosts that run `kvferry-bench transfer --serve`.
    #[arg(long, value_name = "HOST:PORT,..", value_delimiter = ',', required = true)]
    pub peers: Vec<String>,
    /// Fabric to measure: tcp, ucx, ucx:rc, ...
    #[arg(long, default_value = "tcp")]
    pub backend: String,
    /// Bytes of a block.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = bytes)]
    pub block_bytes: u64,
    /// Blocks of a pass.
    #[arg(long, default_value_t = 128)]
    pub count: u64,
    /// Streams of each pair.
    #[arg(long, default_value_t = 2)]
    pub streams: usize,
    /// Progress threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Each pair and way is measured for so long.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub window_ms: u64,
    /// A pair fails below this part of the median of all pairs.
    #[arg(long, default_value_t = 0.5)]
    pub threshold: f64,
    /// A pair fails if the name of its lane does not hold this: rc, zero-copy, ...
    #[arg(long, value_name = "WORDS")]
    pub expect_lane: Option<String>,
    /// File with words that all hosts know.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Folder for preflight.{json,svg}.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    size::parse(text).map_err(|error| error.to_string())
}

/// The words of a secret file.
///
/// # Errors
/// When it cannot be read, or is too short.
pub fn secret(file: Option<&PathBuf>) -> Result<Option<Secret>> {
    let Some(file) = file else { return Ok(None) };
    let named = |error: &dyn std::fmt::Display| format!("--secret-file {}: {error}", file.display());
    let words = std::fs::read_to_string(file).map_err(|error| named(&error))?;
    Ok(Some(Secret::new(&words).map_err(|error| named(&error))?))
}

impl TransferArgs {
    /// What is started on this machine.
    ///
    /// # Errors
    /// When a file that was named is not there.
    pub fn programs(&self) -> Result<Programs> {
        if self.worker {
            return Ok(Programs::default());
        }
        Programs::find(Programs {
            python: self.python.clone(),
            ucx_library: self.ucx_library.clone(),
            nixl_library: self.nixl_library.clone(),
            ucx_perftest: self.ucx_perftest.clone(),
        })
    }

    /// Rounds and their length.
    pub fn pace(&self) -> crate::work::Pace {
        let window = Duration::from_millis(self.window_ms);
        let rounds = usize::from(self.rounds);
        if self.quick {
            crate::work::Pace { rounds: rounds.min(3), window: window.min(Duration::from_millis(80)) }
        } else {
            crate::work::Pace { rounds, window }
        }
    }
}
