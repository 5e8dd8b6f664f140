//! The emulator as a process: starts, prints one JSON line when ready, ends with 0 on SIGTERM or SIGINT.

mod args;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use kvferry_emulator::{Emulator, Zero};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use args::Args;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(&Args::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &io::Error) -> ExitCode {
    eprintln!("kvferry-emulator: {error}");
    ExitCode::FAILURE
}

async fn run(args: &Args) -> io::Result<()> {
    // Before the ready line, so that a signal right after it already ends us well.
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if args.zero {
        let zero = Zero::start(&args.zero_config())?;
        announce(&json!({"ready": format!("http://{}", zero.addr()), "kv_port": null, "engine_id": "zero"}))?;
        end(terminate, interrupt).await;
        return Ok(());
    }
    let emulator = Emulator::start(args.config()).await?;
    announce(&json!({
        "ready": format!("http://{}", emulator.host_port()),
        "kv_port": emulator.kv_port(),
        "bootstrap_port": emulator.bootstrap_port(),
        "p2p_port": emulator.p2p_port(),
        "notify_port": emulator.notify_port(),
        "engine_id": emulator.state().engine_id,
    }))?;
    end(terminate, interrupt).await;
    emulator.stop();
    Ok(())
}

fn announce(line: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn end(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
