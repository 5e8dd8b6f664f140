//! A fabric that goes wrong as its plan says, around one that does not.
//!
//! Tests wrap a real fabric in [`Faulty`] and see whether what is built on fabrics keeps its promises when a fabric is slow,
//! loses events, says them twice or in another order, refuses, fails, loses peers, or delivers wrong bytes. The same seed
//! rolls the same dice; which event each roll meets depends on how the threads run.
//!
//! What it keeps of a fabric's contract, because callers may rely on it: a transfer ends once at most, and nothing of a peer
//! comes after its loss. What it breaks on purpose: [`Plan::drop`] (an end that never comes) and [`Plan::corrupt`] (bytes
//! that are not those that were sent).

mod faulty;
mod memory;
mod plan;
mod pump;
mod queue;

pub use faulty::Faulty;
pub use memory::Memory;
pub use plan::{Counts, Plan};
