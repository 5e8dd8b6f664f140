//! Whoever can be asked: a worker that is a child of this process, or one behind another host's `--serve`.

use std::time::Duration;

use kvferry_bench_common::Result;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::protocol::{Answer, Ask};

/// How long opening, registering and meeting may take: NIXL's Python agent takes seconds to start, registering a hundred
/// gigabytes up to twenty.
pub const SETUP_LIMIT: Duration = Duration::from_secs(120);

/// How long a question may take that does no more than look.
pub const LOOK_LIMIT: Duration = Duration::from_secs(20);

/// A worker.
pub trait Asks: Send {
    /// Sends a question without waiting.
    ///
    /// # Errors
    /// When the worker is gone.
    fn send(&mut self, ask: &Ask) -> Result<()>;

    /// Waits for the answer.
    ///
    /// # Errors
    /// When the worker is gone or silent for so long.
    fn receive(&mut self, within: Duration) -> Result<Answer>;

    /// Holds the worker's process still, or lets it go on. Those of other hosts are left as they are.
    fn hold(&mut self, _still: bool) {}

    /// Who it is, for messages.
    fn name(&self) -> &str;
}

/// The answer to `ask`, in the shape that it has.
///
/// # Errors
/// What the worker says; or that it is gone, silent or says something else.
pub fn ask<T: DeserializeOwned>(worker: &mut dyn Asks, ask: &Ask, within: Duration) -> Result<T> {
    worker.send(ask)?;
    receive(worker, within)
}

/// The answer to what was sent before.
///
/// # Errors
/// As [`ask`].
pub fn receive<T: DeserializeOwned>(worker: &mut dyn Asks, within: Duration) -> Result<T> {
    match worker.receive(within)? {
        Answer::Ok(value) => parse(worker.name(), value),
        Answer::Error(error) => Err(format!("{}: {error}", worker.name()).into()),
    }
}

fn parse<T: DeserializeOwned>(name: &str, value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|error| format!("{name}: an answer of another shape: {error}").into())
}
