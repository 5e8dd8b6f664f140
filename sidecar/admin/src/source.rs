//! What the admin port asks the sidecar.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::readiness::Readiness;

/// Where the answers come from. Called on the admin port's own thread, so it may take some milliseconds, but it must
/// not wait for requests.
pub trait Source: Send + Sync + 'static {
    /// All metrics.
    fn metrics(&self) -> Exposition;

    /// What readiness depends on, now.
    fn readiness(&self) -> Readiness;

    /// Why the process should be started anew, if it should: something that does not heal by itself, such as a worker
    /// that no longer runs.
    fn broken(&self) -> Option<String>;

    /// What is in flight: up to `most` requests, longest first, and how many there are.
    fn in_flight(&self, most: usize) -> InFlight;

    /// The log level in force.
    fn log_level(&self) -> String;

    /// Sets the log level.
    ///
    /// # Errors
    /// Why not, and what would be accepted.
    fn set_log_level(&self, level: &str) -> Result<(), String>;
}

/// Metrics as a scraper gets them.
#[derive(Debug, Clone)]
pub struct Exposition {
    /// The text's media type.
    pub content_type: &'static str,
    /// The text.
    pub text: String,
}

/// Requests being served.
#[derive(Debug, Clone, Serialize)]
pub struct InFlight {
    /// How many there are, listed or not.
    pub total: usize,
    /// Some of them.
    pub requests: Vec<Request>,
}

/// One request being served.
#[derive(Debug, Clone, Serialize)]
pub struct Request {
    /// The id that both legs carry.
    pub id: String,
    /// The API, as metrics call it.
    pub api: &'static str,
    /// Where it is, as metrics call it.
    pub stage: &'static str,
    /// Since it came.
    #[serde(rename = "since_ms", serialize_with = "millis")]
    pub since: Duration,
    /// Its prefill engine, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_target: Option<String>,
    /// Body bytes from the client so far.
    pub bytes_in: u64,
    /// Body bytes to the client so far.
    pub bytes_out: u64,
}

fn millis<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
