//! The `kvferry-sidecar` process: command line in, exit code out.
//!
//! Exit codes: 0 after an orderly stop, 1 if it could not start or was told twice to stop, 2 for a wrong command line.

use std::process::ExitCode;

use clap::Parser;
use kvferry_sidecar::config::Config;
use kvferry_sidecar::{logging, server::Server};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Requests come and go by the thousand in buffers of a few sizes; this allocator gives their memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let config = Config::parse();
    let checked = match config.check() {
        Ok(checked) => checked,
        Err(invalid) => {
            eprintln!("kvferry-sidecar: {invalid}");
            return ExitCode::from(2);
        }
    };
    let _log = match logging::start(config.log_level()) {
        Ok(log) => log,
        Err(error) => return cannot_start("start logging", &error),
    };
    // Each stream takes two descriptors; the usual soft limit of 1024 is made for programs that use select().
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    // Before the port opens: who can reach us may also stop us.
    let stop = match Stop::new() {
        Ok(stop) => stop,
        Err(error) => return cannot_start("handle signals", &error),
    };
    let server = match Server::start(&checked.settings, checked.workers) {
        Ok(server) => server,
        Err(error) => return cannot_start(&format!("listen on port {}", checked.port), &error),
    };
    tracing::info!(
        addr = %server.address(),
        decoder = %checked.settings.ranks[0].decoder,
        workers = checked.workers,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    if let Err(error) = stop.wait() {
        return cannot_start("handle signals", &error);
    }
    tracing::info!(
        connections = server.connections(),
        patience_s = checked.shutdown_timeout.as_secs(),
        "shutting down: no new connections, finishing what runs"
    );
    let ledger = server.ledger().clone();
    server.stop(checked.shutdown_timeout);
    let counts = ledger.counts();
    tracing::info!(
        kv_consumed = counts.consumed,
        kv_released = counts.released,
        kv_expired = counts.expired,
        kv_outstanding = counts.outstanding(),
        "stopped"
    );
    ExitCode::SUCCESS
}

/// The signals that ask the process to stop.
struct Stop {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    /// From now on the signals are kept for [`Self::wait`] instead of ending the process.
    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (terminate, interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Returns at the first SIGTERM or SIGINT. From then on a second one ends the process at once.
    fn wait(mut self) -> std::io::Result<()> {
        self.next();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            self.next();
            std::process::exit(1);
        })?;
        Ok(())
    }

    fn next(&mut self) {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        });
    }
}

fn cannot_start(what: &str, error: &std::io::Error) -> ExitCode {
    eprintln!("kvferry-sidecar: cannot {what}: {error}");
    ExitCode::from(1)
}
