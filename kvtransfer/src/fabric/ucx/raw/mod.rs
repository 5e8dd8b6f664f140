//! The calls into UCX: the only `unsafe` of this fabric. What it hands out is safe to use, for each of these reasons:
//!
//! - **One thread.** Everything here is made, used and dropped on the progress thread: all of it holds an `Rc` or a raw
//!   pointer, so the compiler lets none of it leave.
//! - **Memory outlives what uses it.** Whatever an operation reads or writes is kept with the operation until UCX says that
//!   it has ended (`Held`); a key keeps its worker, a worker its context. If something has not ended when the worker is
//!   dropped, all of it is leaked rather than taken from under UCX.
//! - **Callbacks only take notes** (`mail`), so that they can neither unwind into C nor call back.

#![expect(unsafe_code, reason = "calls into UCX")]

mod context;
mod mail;
mod memory;
mod ops;
mod printed;
mod worker;

pub(super) use context::{Context, Setting};
pub(super) use memory::{Mapped, RemoteKey};
pub(super) use ops::Posted;
pub(super) use worker::{Endpoint, News, Worker};

use kvferry_ucx_sys::{Library, ucs_status_t};

/// What UCX answers when something cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(ucs_status_t);

impl Status {
    /// In UCX's words.
    pub(super) fn text(self, ucx: &Library) -> String {
        ucx.status_text(self.0)
    }
}

fn checked(status: ucs_status_t) -> Result<(), Status> {
    if status == kvferry_ucx_sys::UCS_OK { Ok(()) } else { Err(Status(status)) }
}
