//! What fabrics of our own share: the queue that events wait in, and how metadata begins.

mod events;
mod header;
mod wire;

pub(crate) use events::EventQueue;
pub(crate) use header::{Identity, read_header, write_header};
pub(crate) use wire::{Reader, Writer};
