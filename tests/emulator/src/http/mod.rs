//! The HTTP side: connections that can misbehave on demand, routing, and the control routes.

pub(crate) mod body;
pub(crate) mod conn;
mod control;
pub(crate) mod io;
mod misbehave;
mod route;
pub(crate) mod seen;
