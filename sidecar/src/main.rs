//! The `kvferry-sidecar` process: command line in, exit code out.
//!
//! Exit codes: 0 after an orderly stop, 1 if it could not start or was told twice to stop, 2 for a wrong configuration.
//! `doctor` as the first argument is another program, with exit codes of its own.

use std::io::{self, Write};
use std::process::ExitCode;

use kvferry_config::{LogLevel, Options, Parsed, World};
use kvferry_sidecar::operator::Operator;
use kvferry_sidecar::signals::Signals;
use kvferry_sidecar::{assemble, logging, server::Server};
use kvferry_traces::Traces;
use tracing::level_filters::LevelFilter;

/// Requests come and go by the thousand in buffers of a few sizes; this allocator gives their memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // The sidecar that is replaced takes flags only, so no flag of its can be meant by this word.
    if std::env::args_os().nth(1).is_some_and(|first| first == "doctor") {
        return kvferry_doctor::cli::main(std::env::args_os().skip(2));
    }
    let parsed = kvferry_config::parse(std::env::args_os().skip(1), &assemble::known(), &World::of_process());
    let Parsed { options, warnings, print_config } = match parsed {
        Ok(parsed) => parsed,
        Err(exit) => {
            if exit.code == 0 {
                show(&exit.text);
            } else {
                eprint!("{}", exit.text);
            }
            return ExitCode::from(exit.code);
        }
    };
    if print_config {
        show(&format!("{:#}\n", options.to_json()));
        return ExitCode::SUCCESS;
    }
    match run(&options, &warnings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("kvferry-sidecar: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what was asked for. A reader that has seen enough and left is no trouble.
fn show(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Serves until told to stop. What keeps it from starting is one line that says what.
fn run(options: &Options, warnings: &[String]) -> Result<(), String> {
    let cannot = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    let log = logging::start(level(options.observability.log_level))
        .map_err(|error| cannot("start logging", &error))?;
    // Each stream takes two descriptors; the usual soft limit of 1024 is made for programs that use select().
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(configuration = %options.to_json(), "Proxy configuration");
    // Before the port opens: who can reach us may also stop us.
    let signals = Signals::new().map_err(|error| cannot("handle signals", &error))?;
    let mut settings = {
        let _within = signals.runtime().enter();
        assemble::settings(options).map_err(|error| cannot("use TLS", &error))?
    };
    if options.observability.tracing {
        match Traces::from_env(env!("CARGO_PKG_VERSION"), |name| std::env::var(name).ok()) {
            Ok(traces) => settings.traces = traces,
            // As with the sidecar we replace: traces are worth less than the service.
            Err(error) => tracing::error!(%error, "tracing is off"),
        }
    }
    let operator =
        Operator::start(options, &settings, &log).map_err(|error| cannot("open the metrics port", &error))?;
    let server =
        Server::start(&settings, options.process.workers.get()).map_err(|error| cannot("listen", &error))?;
    operator.serves(&server);
    tracing::info!(
        addr = %server.address(),
        decoder = %settings.ranks[0].decoder,
        ranks = settings.ranks.len(),
        workers = options.process.workers,
        tls = options.listener.secure_serving,
        connector = options.handoff.kv_connector,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    signals.wait().map_err(|error| cannot("handle signals", &error))?;
    operator.drains();
    let patience = options.process.shutdown_timeout;
    tracing::info!(
        connections = server.connections(),
        patience_s = patience.as_secs(),
        "shutting down: no new connections, finishing what runs"
    );
    let ledger = server.ledger().clone();
    server.stop(patience);
    let counts = ledger.counts();
    tracing::info!(
        kv_consumed = counts.consumed,
        kv_released = counts.released,
        kv_expired = counts.expired,
        kv_outstanding = counts.outstanding(),
        "stopped"
    );
    operator.stop();
    Ok(())
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
