//! Server-sent events: how a route turns tokens into frames.

use serde::Serialize;

use super::run::{Tally, Usage};
use crate::error::ApiError;
use crate::finish::Finish;

/// The end marker of the `OpenAI` streams.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// One route's stream. Every method returns whole frames, ready to send; an empty string sends nothing.
pub(crate) trait Frames: Send {
    /// The prompt at `index` is ready to generate.
    fn open(&mut self, index: usize, usage: Usage) -> String;
    /// One more token of the prompt at `index`; `last`: its final one, and why.
    fn token(&mut self, index: usize, token: u32, last: Option<Finish>) -> String;
    /// The prompt at `index` ended before its last token.
    fn stop(&mut self, index: usize, finish: Finish) -> String;
    /// Everything was generated.
    fn close(&mut self, total: Usage, tallies: &[Tally]) -> String;
    /// The request failed after the answer had begun.
    fn fail(&mut self, error: &ApiError) -> String {
        data(&error.openai()) + DONE
    }
}

/// A frame with only data.
pub(crate) fn data(payload: &impl Serialize) -> String {
    format!("data: {}\n\n", text(payload))
}

/// A frame with an event name.
pub(crate) fn event(name: &str, payload: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", text(payload))
}

fn text(payload: &impl Serialize) -> String {
    serde_json::to_string(payload).expect("our own answers have string keys and finite numbers")
}
