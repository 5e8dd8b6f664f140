//! `kvferry-bench`: reads the command line, makes the runtime, and sees to it that Ctrl-C leaves no process behind.

use std::process::ExitCode;

use clap::Parser;
use kvferry_bench::cli::{Cli, Command};
use kvferry_bench::{Result, client, connectors, forwarder, proxy};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvferry-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the subcommand on one thread; an interrupt drops it half-way, which ends the processes it started.
fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let work = async {
            match cli.command {
                Command::Proxy(arguments) => proxy::run(&arguments).await,
                Command::Connectors(arguments) => connectors::run(&arguments).await,
                Command::Transfer(arguments) => {
                    aside(move || kvferry_bench_transfer::transfer(&arguments)).await
                }
                Command::Preflight(arguments) => {
                    aside(move || kvferry_bench_transfer::preflight(&arguments)).await
                }
                Command::Client(arguments) => client::run(&arguments).await,
                Command::Forwarder(arguments) => forwarder::run(&arguments).await,
            }
        };
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => Err("interrupted; the processes it had started are ended".into()),
            _ = terminate.recv() => Err("asked to stop; the processes it had started are ended".into()),
        }
    })
}

/// Runs work that blocks on a thread of its own. When an interrupt drops it half-way, the processes it started end, and
/// its thread with this process.
async fn aside(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    struct Children;
    impl Drop for Children {
        fn drop(&mut self) {
            kvferry_bench_transfer::end_children();
        }
    }
    let _children = Children;
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    ended.await.map_err(|_| "the bench has panicked; its message stands above")?
}
