//! The signals that ask the process to stop, and a runtime that lives as long as they are waited for: small things that
//! concern no worker, such as following the allowlist, run on it.

use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, kept for [`Self::wait`] instead of ending the process.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on the signals are kept.
    ///
    /// # Errors
    /// They cannot be had.
    pub fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (terminate, interrupt) = {
            let _entered = runtime.enter();
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
        };
        Ok(Self { runtime, terminate, interrupt })
    }

    /// What is spawned here runs while signals are waited for, until the process ends.
    pub fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Returns at the first signal. From then on a second one ends the process at once.
    ///
    /// # Errors
    /// The thread that goes on waiting cannot be made.
    pub fn wait(mut self) -> io::Result<()> {
        self.next();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
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
