//! One request's life, decided without doing any of it.
//!
//! [`Handoff`] is a state machine: events in (prefill answered, leg failed, client left, time passed), commands out
//! (send a leg, cancel it, answer the client, release KV). [`Ledger`] counts every KV handle that a prefill hands out
//! until it ends as consumed, released or expired. No sockets, no clock, no randomness: the caller brings time as
//! [`Time`], so a seeded simulator can drive any schedule (`tests/simulator.rs`).

mod handoff;
mod ledger;
mod time;

pub use handoff::{Cause, Command, Commands, Event, Handoff, Leg, Limits, Stage};
pub use ledger::{Counts, Held, Ledger};
pub use time::Time;
