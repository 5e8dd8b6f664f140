//! How orders reach a thread that may be asleep. It is all that threads of this project share by a protocol rather than
//! by a lock alone, so it stands in one place, small enough that `tests/loom.rs` tries every order in which threads can
//! meet in it: no order is lost, no sleeper misses its bell, and nobody rings without need.
//!
//! - [`Inbox`]: orders for one thread, which sleeps when there are none and is woken by a [`Bell`];
//! - [`Duty`]: an inbox beside the engine that obeys its orders, where others may do the thread's work for it.
//!
//! What a bell is, and how a thread listens for it, is for others: an eventfd, as a rule. No I/O, no clock, no unsafe.
//! Built with `--cfg loom` its locks are loom's; nothing else changes.

mod duty;
mod inbox;
mod sync;

pub use duty::Duty;
pub use inbox::{Bell, Inbox};
