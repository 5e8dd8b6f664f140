//! A soak: thousands of concurrent streams through a sidecar process, to engines that fail at random in every way the
//! emulator knows, from clients that leave at random. Then a calm in which every answer must be right.
//!
//! What it guards: nothing that is held for a request outlives it, on either side and in the sidecar, whatever goes
//! wrong and whenever; and no failure turns into a wrong answer. Every decision comes from one seed, which is printed
//! first and with every failure; only the moments at which things meet are the machine's own.

mod api;
mod args;
mod checks;
mod client;
mod dice;
mod expect;
mod fleet;
mod gauges;
mod load;
mod outcome;
mod plan;
mod ports;
mod process;
mod record;
mod report;
mod sidecar;
mod soak;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Args;
use crate::checks::Check;
use crate::record::Record;

/// What can go wrong around the soak itself, in words.
type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(random_seed);
    println!("soak: seed {seed}; again: KVFERRY_SEED={seed} make soak");
    match soak(&args, seed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!("soak: failed with seed {seed}; again: KVFERRY_SEED={seed} make soak");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("soak: could not be finished (seed {seed}): {error}");
            ExitCode::from(1)
        }
    }
}

fn soak(args: &Args, seed: u64) -> Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let record = runtime.block_on(soak::run(args, seed))?;
    let checks = checks::check(&record);
    print!("{}", report::table(&record, &checks));
    save(args, &record, &checks)?;
    Ok(checks.iter().all(|check| check.passed))
}

fn save(args: &Args, record: &Record, checks: &[Check]) -> Result<()> {
    let path = args.out.join("soak.json");
    let passed = checks.iter().all(|check| check.passed);
    let all = serde_json::json!({"passed": passed, "checks": checks, "run": record});
    std::fs::write(&path, serde_json::to_string_pretty(&all)? + "\n")?;
    println!("\nsoak: {} in {}", if passed { "passed; details" } else { "details" }, path.display());
    Ok(())
}

/// Different in every run; only its printed value matters.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one("seed") >> 32
}
