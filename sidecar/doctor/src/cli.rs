//! The command line.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::facts::{Facts, Root};
use crate::judge::{Want, judge};
use crate::peer::{self, Setup};
use crate::probe::{self, Probed, UcxFound, Which};
use crate::report::Report;

/// Answers "is my RDMA used?": what this machine has, what is in the way, and what to change.
///
/// Exit codes: 0 nothing to do, 1 something could be faster, 2 wrong command line, 3 what was asked for cannot be had.
#[derive(Debug, Parser)]
#[command(name = "kvferry-sidecar doctor", bin_name = "kvferry-sidecar doctor", version)]
pub struct Cli {
    /// What the machine is expected to have.
    #[arg(long, value_enum, default_value = "auto")]
    want: Want,
    /// Print all facts and findings as JSON.
    #[arg(long)]
    json: bool,
    /// The file of UCX's library (libucp.so.0) instead of the first that is found.
    #[arg(long, value_name = "FILE")]
    ucx_library: Option<PathBuf>,
    /// The file of NIXL's library (libnixl_capi.so) instead of the first that is found.
    #[arg(long, value_name = "FILE")]
    nixl_library: Option<PathBuf>,
    /// Also measure with a peer that runs `doctor --listen` there: lane, GB/s, latency, verdict.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "listen")]
    peer: Option<String>,
    /// Lend scratch memory to peers that measure, until interrupted. The address must be one that they reach.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// A file with what all agents of the deployment know; peers that do not know it are refused.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Asks one library and prints its answer: what a doctor does in processes of its own.
    #[arg(long, value_enum, hide = true)]
    probe: Option<Which>,
}

/// Runs `doctor` with its arguments (without the program's and its own name); returns the exit code.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let name = OsString::from("kvferry-sidecar doctor");
    let cli = match Cli::try_parse_from(std::iter::once(name).chain(arguments)) {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be left to read it.
            drop(error.print());
            return ExitCode::from(u8::from(error.use_stderr()) * 2);
        }
    };
    if let Some(which) = cli.probe {
        return answer(which, &cli);
    }
    let setup = match setup(&cli) {
        Ok(setup) => setup,
        Err(why) => return complain(&why),
    };
    if let Some(at) = cli.listen {
        return match listen(at, &setup) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => complain(&why),
        };
    }
    let report = examine(&cli, &setup);
    let text = if cli.json { report.json() } else { report.text(std::io::stdout().is_terminal()) };
    let mut out = std::io::stdout().lock();
    // A reader that has seen enough and left is no trouble.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    ExitCode::from(report.exit_code())
}

fn complain(why: &str) -> ExitCode {
    eprintln!("kvferry-sidecar doctor: {why}");
    ExitCode::from(2)
}

fn setup(cli: &Cli) -> Result<Setup, String> {
    let read = |file: &PathBuf| {
        let secret =
            std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        // What an editor adds at the end is no part of it.
        let secret = secret.trim_ascii().to_vec();
        if secret.is_empty() { Err(format!("{} holds no secret", file.display())) } else { Ok(secret) }
    };
    let secret = cli.secret_file.as_ref().map(read).transpose()?;
    Ok(Setup { ucx_library: cli.ucx_library.clone(), secret, want: cli.want })
}

/// Serves until the process is interrupted.
fn listen(at: SocketAddr, setup: &Setup) -> Result<(), String> {
    runtime()?.block_on(async {
        let mut say = |what: String| eprintln!("{what}");
        tokio::select! {
            served = peer::serve(at, setup, &mut say) => served,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("cannot start: {error}"))
}

/// In a child: asks one library. Exits as whoever started it expects.
fn answer(which: Which, cli: &Cli) -> ExitCode {
    match which {
        Which::Ucx => {
            let answer = serde_json::to_string(&probe::ask_ucx(cli.ucx_library.as_deref()));
            println!("{}", answer.expect("plain data is always JSON"));
            ExitCode::SUCCESS
        }
        Which::Nixl => probe::answer_nixl(),
    }
}

fn examine(cli: &Cli, setup: &Setup) -> Report {
    let ucx = ask_ucx_apart(cli.ucx_library.as_deref());
    let nixl = probe::ask_nixl(cli.nixl_library.as_deref());
    // Variables that are no text cannot be settings that anybody meant.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let facts = Facts::gather(&Root::new("/"), environment, ucx, nixl);
    // Last: it loads UCX into this process.
    let measured = cli.peer.as_ref().map(|address| runtime()?.block_on(peer::measure(address, setup)));
    let (findings, verdict) = judge(&facts, measured.as_ref(), cli.want);
    Report { verdict, findings, measured: measured.and_then(Result::ok), facts }
}

/// This program again, for UCX.
fn ask_ucx_apart(library: Option<&Path>) -> Probed<UcxFound> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["doctor", "--probe", "ucx"]);
    if let Some(library) = library {
        command.arg("--ucx-library").arg(library);
    }
    probe::ask(command)
}
