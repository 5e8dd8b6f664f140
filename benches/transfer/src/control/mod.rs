//! The link between two hosts of a run: one TCP connection, JSON lines, versioned and bounded. Whoever serves lets one
//! session in at a time, and only who knows its secret, if it has one; a session may ask workers of its own, which get
//! memory of their own and nothing of anybody else's, and all of it goes with the session.

pub mod client;
mod hello;
pub mod server;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::{Answer, Ask};

pub use hello::Secret;

/// What is spoken. Both sides must speak the same.
pub const PROTOCOL: u32 = 1;

/// The most bytes of a line from a stranger: a greeting has some two hundred.
pub const MAX_HELLO: u64 = 1024;

/// How long a stranger may take to say who it is, and a server to answer.
pub const HELLO_LIMIT: Duration = Duration::from_secs(5);

/// How long a session may be silent before it is ended: between two questions of a run lie at most what the other sides of
/// a round take, and verifying gigabytes.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// The most workers of a session: every backend and ceiling with sixteen peers.
pub const MAX_WORKERS: usize = 64;

/// What a session asks of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "session", rename_all = "snake_case")]
pub enum Wish {
    /// Start another worker; they are numbered from 0 on.
    Start {
        /// `UCX_TLS` of its environment, for libraries that take it from there only.
        tls: Option<String>,
    },
    /// Ask a worker something.
    Ask {
        /// Which.
        worker: usize,
        /// What.
        ask: Box<Ask>,
        /// How long it may take, in seconds.
        within_s: u64,
    },
    /// Measure against another server, as if a run were started there.
    Measure(Box<crate::preflight::Errand>),
    /// End the session and all its workers. Answered when that is done.
    Bye,
}

/// The most characters of a list of transports: all that UCX knows have some 200.
const MAX_TLS: usize = 256;

/// Whether a list of transports is no more than that.
pub fn is_tls(tls: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_,^:".contains(&byte);
    (1..=MAX_TLS).contains(&tls.len()) && tls.bytes().all(fits)
}

/// What a server answers.
pub type Reply = Answer;
