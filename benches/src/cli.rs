//! The command line, kept apart from the work so that `--help` is the one place that lists what can be asked for.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kvferry_bench_transfer::cli::{PreflightArgs, TransferArgs};

/// Benches of kvferry: what the proxy costs beside going to the engines directly, and how fast KV blocks move.
#[derive(Debug, Parser)]
#[command(name = "kvferry-bench", version)]
pub struct Cli {
    /// Which bench to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The benches.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load through the sidecar, beside direct access, a bare forwarder and other proxies, all in one run.
    Proxy(ProxyArgs),
    /// CPU cost of each connector beside nixlv2 serial, and of metrics and traces beside none.
    Connectors(ConnectorsArgs),
    /// CPU cost of three HTTP clients, one of which the sidecar uses towards the engines.
    Client(ClientArgs),
    /// How fast KV blocks move: every fabric beside its ceiling and beside other engines.
    Transfer(Box<TransferArgs>),
    /// Every pair of hosts that run `transfer --serve`, each way: a heat map, and which pairs to look at.
    Preflight(PreflightArgs),
    /// The yardstick of the proxy bench: one bare loopback HTTP hop.
    Forwarder(ForwarderArgs),
}

/// What the proxy bench needs.
#[derive(Debug, Clone, Args)]
pub struct ProxyArgs {
    /// The kvferry-sidecar binary.
    #[arg(long, default_value = "target/release/kvferry-sidecar")]
    pub sidecar: PathBuf,
    /// The kvferry-emulator binary; run with zero think time as prefill and as decode engine.
    #[arg(long, default_value = "target/release/kvferry-emulator")]
    pub emulator: PathBuf,
    /// The `vllm-router` program, version 0.1.17 is what the goals name; without it its ratios are left out.
    #[arg(long)]
    pub router: Option<PathBuf>,
    /// Another P/D proxy that runs already and forwards to the two engine ports below: `URL` or `URL,name`; repeatable.
    #[arg(long = "peer", value_name = "URL[,NAME]")]
    pub peers: Vec<String>,
    /// TCP port of the prefill engine: fix it when a `--peer` must know it; 0 picks a free one.
    #[arg(long, default_value_t = 0)]
    pub prefill_port: u16,
    /// TCP port of the decode engine; as above.
    #[arg(long, default_value_t = 0)]
    pub decode_port: u16,
    /// One more argument for the sidecar, such as `--sidecar-arg=--workers=1`; repeatable.
    #[arg(long = "sidecar-arg", allow_hyphen_values = true)]
    pub sidecar_args: Vec<String>,
    /// Folder for proxy.json and proxy.svg.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// Only what the ratios need, with short windows: under a minute, and noisier.
    #[arg(long)]
    pub quick: bool,
    /// Only cells whose name contains this text.
    #[arg(long)]
    pub only: Option<String>,
}

/// What the connector bench needs.
#[derive(Debug, Clone, Args)]
pub struct ConnectorsArgs {
    /// The kvferry-sidecar binary.
    #[arg(long, default_value = "target/release/kvferry-sidecar")]
    pub sidecar: PathBuf,
    /// The kvferry-emulator binary; run with zero think time as prefill and as decode engine.
    #[arg(long, default_value = "target/release/kvferry-emulator")]
    pub emulator: PathBuf,
    /// One more argument for every sidecar, such as `--sidecar-arg=--workers=1`; repeatable.
    #[arg(long = "sidecar-arg", allow_hyphen_values = true)]
    pub sidecar_args: Vec<String>,
    /// Folder for connectors.json and connectors.svg.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// Fewer rounds: about a minute, and noisier.
    #[arg(long)]
    pub quick: bool,
    /// Only sides whose name contains this text.
    #[arg(long)]
    pub only: Option<String>,
}

/// What the client bench needs.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// The kvferry-emulator binary; run with zero think time.
    #[arg(long, default_value = "target/release/kvferry-emulator")]
    pub emulator: PathBuf,
    /// Folder for client.json.
    #[arg(long, default_value = "target/bench")]
    pub out: PathBuf,
    /// Fewer requests: a look, not a figure to quote.
    #[arg(long)]
    pub quick: bool,
}

/// What the forwarder needs.
#[derive(Debug, Clone, Args)]
pub struct ForwarderArgs {
    /// Address to listen on; port 0 picks a free one, which the ready line tells.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Address every request goes to.
    #[arg(long)]
    pub to: SocketAddr,
}
