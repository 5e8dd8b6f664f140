//! The calls into NIXL: the only `unsafe` of this fabric. What it hands out is safe to use, for each of these reasons:
//!
//! - **One thread.** Everything here is made, used and dropped on one thread: all of it holds an `Rc`, so the compiler lets
//!   none of it leave. So NIXL needs no lock of its own between callers.
//! - **What is used outlives its users.** A request keeps what it reads and writes registered, a registration keeps its
//!   memory and its agent. A request that is let go of before it has ended takes its memory with it, for good: NIXL cancels
//!   without saying when that is over.
//! - **No call is made on what NIXL has let go of.** It frees a request whose peer was forgotten behind the caller's back;
//!   so [`Agent::forget`] takes proof that no request of that peer is left.

#![expect(unsafe_code, reason = "calls into NIXL")]

mod agent;
mod lists;
mod memory;
mod plugins;
mod request;

use std::fmt;

use kvferry_nixl_sys::{
    NIXL_CAPI_ERROR_BACKEND, NIXL_CAPI_ERROR_EXCEPTION, NIXL_CAPI_ERROR_INVALID_PARAM,
    NIXL_CAPI_ERROR_INVALID_STATE, NIXL_CAPI_ERROR_NO_TELEMETRY, NIXL_CAPI_ERROR_NOT_FOUND,
    NIXL_CAPI_SUCCESS, nixl_capi_status_t,
};

pub(super) use agent::{Agent, Threads};
pub(super) use memory::{Memory, Registered, memory_of};
pub(super) use plugins::{Params, known, listed};
pub(super) use request::{Desc, Ended, Measured, Prepared, Request};

/// What NIXL answers when something cannot be done. Most of its own reasons are one number here, `ERROR_BACKEND`: the C API
/// folds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(nixl_capi_status_t);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            NIXL_CAPI_ERROR_INVALID_PARAM => "invalid parameter",
            NIXL_CAPI_ERROR_BACKEND => "its backend failed, and its C API does not say how",
            NIXL_CAPI_ERROR_INVALID_STATE => "invalid state",
            NIXL_CAPI_ERROR_EXCEPTION => "an exception inside of it",
            NIXL_CAPI_ERROR_NO_TELEMETRY => "no telemetry",
            NIXL_CAPI_ERROR_NOT_FOUND => "not found",
            other => return write!(f, "status {other}"),
        })
    }
}

fn checked(status: nixl_capi_status_t) -> Result<(), Status> {
    if status == NIXL_CAPI_SUCCESS { Ok(()) } else { Err(Status(status)) }
}

/// For what a handle that was just made cannot answer otherwise.
const NOTHING: Status = Status(NIXL_CAPI_ERROR_INVALID_STATE);
