//! `kvferry-bench transfer` and `preflight`: how fast KV blocks move between processes and hosts.
//!
//! ```text
//!   coordinator ──JSON lines──▶ driver ════ the fabric under test ════ driven end
//!        │                                                                 ▲
//!        └── JSON lines, here; or over the control link through `--serve` ─┘
//! ```
//!
//! The race that is guarded everywhere: a machine that changes its speed between two measurements. So everything that is
//! compared is measured in one run, by turns, and compared round by round. Each end of each side is a process of its own:
//! CPU time is a process's, and no library can spoil another's figures.

mod asks;
mod backends;
mod child;
pub mod cli;
mod control;
mod figures;
mod fill;
mod line;
mod model;
mod pattern;
mod peers;
mod perftest;
mod place;
mod plan;
mod plot;
mod preflight;
mod programs;
mod progress;
mod protocol;
mod random;
mod ratios;
mod report;
mod rounds;
mod run;
mod scorecard;
mod session;
mod side;
mod size;
mod sweep;
mod work;
mod worker;

use kvferry_bench_common::Result;

pub use child::end_children;
pub use preflight::preflight;

use cli::TransferArgs;
use control::server::{self, Serving};

/// Runs `kvferry-bench transfer` in whichever role.
///
/// # Errors
/// When what was asked for cannot be, a side failed, or a byte was wrong.
pub fn transfer(arguments: &TransferArgs) -> Result<()> {
    if arguments.worker {
        return worker::run(&backends::Libraries {
            ucx: arguments.ucx_library.clone(),
            nixl: arguments.nixl_library.clone(),
        });
    }
    let Some(address) = arguments.serve else { return run::drive(arguments) };
    let secret = cli::secret(arguments.secret_file.as_ref())?;
    let serving = Serving { max_bytes: arguments.max_bytes, secret, programs: arguments.programs()? };
    let listener = server::listen(address, &serving)?;
    println!("serving on {}", listener.local_addr()?);
    server::serve(&listener, &serving);
    Ok(())
}
