//! The prefill/decode sidecar.
//!
//! A request's way: `downstream` takes the connection, [`service`] sorts the request, `exchange` carries it through
//! prefill and decode (or `passthrough` straight to the decode engine), `upstream` talks to the engines, and the answer
//! goes back. What is decided on the way is decided in two pure crates: `kvferry-handoff` and `kvferry-splice`.

pub mod assemble;
mod chat;
mod connector;
mod decoder;
mod downstream;
mod error;
mod exchange;
mod failover;
mod first_token;
mod inflight;
pub mod logging;
pub mod operator;
mod passthrough;
mod record;
mod request;
mod respond;
pub mod server;
mod service;
pub mod signals;
mod speculative;
mod targets;
mod upstream;
mod vitals;
mod warmup;
pub mod worker;
