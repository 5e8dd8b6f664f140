//! What fabrics of our own share: the queue that events wait in, how metadata begins, and what a progress thread needs
//! whose peers agree to transfers before they move.

mod events;
mod header;
mod inbox;
mod ledger;
mod ranges;
mod timers;
mod wire;

pub(crate) use events::EventQueue;
pub(crate) use header::{Identity, read_header, write_header};
pub(crate) use inbox::{Doorbell, Inbox};
pub(crate) use ledger::{Ledger, regions};
pub(crate) use ranges::{Ranges, Sums};
pub(crate) use timers::{Alarm, Timers};
pub(crate) use wire::{Reader, Writer};
