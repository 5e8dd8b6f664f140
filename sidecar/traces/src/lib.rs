//! One trace of both legs, exported as OpenTelemetry (spec/sidecar.md 9).
//!
//! What it guards: a request never waits for its trace. When its last span has ended they go into a bounded queue
//! together, a thread of their own sends them, and what does not fit is counted and forgotten. Without tracing nothing is
//! allocated; a request that is not sampled costs its ids, and one header in those that all of its legs get.
//!
//! Spans are made here and not by the SDK's tracer, which does more for each of them than a proxy can spend. From the SDK
//! come the propagator's parser and the exporters.
//!
//! The spans of one disaggregated request, and of one that only passes:
//!
//! ```text
//! POST /v1/chat/completions      server; its parent is the client's span
//! └─ forward_request             server
//!    ├─ encode ─── HTTP POST     internal, client
//!    ├─ prefill ── HTTP POST
//!    └─ decode ─── HTTP POST     chunked_decode when it is decoded in chunks
//!
//! GET /v1/models                 server
//! └─ HTTP GET                    client
//! ```

mod config;
mod console;
mod error;
mod export;
mod method;
mod otlp;
mod propagate;
mod queue;
mod ratio;
mod request;
mod span;
mod traces;
mod tree;

pub mod attributes;

pub use error::TraceError;
pub use opentelemetry::Value;
pub use propagate::TraceIdText;
pub use request::RequestTrace;
pub use span::{Span, Work};
pub use traces::Traces;
