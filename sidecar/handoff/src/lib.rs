//! One request's life, decided without doing any of it.
//!
//! [`Handoff`] is a state machine: events in (prefill answered, leg failed, client left, time passed), commands out
//! (send a leg, cancel it, answer the client, release KV). [`Ledger`] counts every KV handle that a prefill hands out
//! until it ends as consumed, released or expired. No sockets, no clock, no randomness: the caller brings time as
//! [`Time`], so a seeded simulator can drive any schedule (`tests/simulator.rs`).

mod breaker;
mod budget;
mod event;
mod handoff;
mod ledger;
mod limits;
mod time;

pub use breaker::Breaker;
pub use budget::Budget;
pub use event::{Again, Cause, Command, Commands, Decode, Event, Leg, Target};
pub use handoff::{Handoff, Stage};
pub use ledger::{Counts, Held, Ledger};
pub use limits::{Limits, Recovery};
pub use time::Time;
