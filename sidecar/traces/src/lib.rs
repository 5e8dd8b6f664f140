//! One trace of both legs, exported as OpenTelemetry (spec/sidecar.md 9).
//!
//! What it guards: a request never waits for its trace. Spans that end go into a bounded queue, a thread of their own
//! sends them, and what does not fit is counted and forgotten. Without tracing nothing is allocated; a request that is
//! not sampled costs its ids.
//!
//! The spans of one disaggregated request:
//!
//! ```text
//! POST /v1/chat/completions      server; its parent is the client's span
//! └─ forward_request             server
//!    ├─ encode ─── HTTP POST     internal, client
//!    ├─ prefill ── HTTP POST
//!    └─ decode ─── HTTP POST     chunked_decode when it is decoded in chunks
//! ```

mod config;
mod console;
mod error;
mod export;
mod otlp;
mod propagate;
mod queue;
mod request;
mod span;
mod traces;

pub mod attributes;

pub use error::TraceError;
pub use opentelemetry::Value;
pub use opentelemetry::trace::TraceId;
pub use request::RequestTrace;
pub use span::{Span, Work};
pub use traces::Traces;
