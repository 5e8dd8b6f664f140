//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Thousands of streams through a sidecar whose engines fail in every way they can.
///
/// Exit code 0 if every check passed, 1 if one failed or the soak could not be finished, 2 for a wrong command line.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Args {
    /// The sidecar under test
    #[arg(long, value_name = "PATH")]
    pub(crate) sidecar: PathBuf,
    /// Its --kv-connector
    #[arg(long, default_value = "nixlv2", value_name = "NAME")]
    pub(crate) connector: String,
    /// Clients, each with one stream at a time
    #[arg(long, env = "SOAK_STREAMS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) streams: u64,
    /// How long there is load; waiting for everything to come to rest is added
    #[arg(long, env = "SOAK_SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    pub(crate) seconds: u64,
    /// Prefill engines
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) prefills: u8,
    /// Decides what every client asks for and when every engine fails; random unless set
    #[arg(long, env = "KVFERRY_SEED", value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Where soak.json, the sidecar's log and its standard error go
    #[arg(long, default_value = "target/soak", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// More flags for the sidecar, behind --
    #[arg(last = true, value_name = "FLAG")]
    pub(crate) flags: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_well_formed() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }

    #[test]
    fn flags_behind_two_dashes_are_the_sidecars() {
        let args = Args::parse_from(["soak", "--sidecar=x", "--seed=3", "--", "--workers=2"]);
        assert_eq!((args.seed, args.flags), (Some(3), vec!["--workers=2".to_owned()]));
    }
}
