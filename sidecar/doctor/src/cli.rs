//! The command line.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::facts::{Facts, Root};
use crate::judge::{Want, judge};
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
    let report = examine(&cli);
    let text = if cli.json { report.json() } else { report.text(std::io::stdout().is_terminal()) };
    let mut out = std::io::stdout().lock();
    // A reader that has seen enough and left is no trouble.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    ExitCode::from(report.exit_code())
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

fn examine(cli: &Cli) -> Report {
    let ucx = ask_ucx_apart(cli.ucx_library.as_deref());
    let nixl = probe::ask_nixl(cli.nixl_library.as_deref());
    // Variables that are no text cannot be settings that anybody meant.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let facts = Facts::gather(&Root::new("/"), environment, ucx, nixl);
    let (findings, verdict) = judge(&facts, cli.want);
    Report { verdict, findings, facts }
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
