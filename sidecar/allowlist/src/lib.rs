//! Which hosts and ports a routing header may name.
//!
//! A routing header makes the sidecar open a connection, so whoever can write one could make it talk to anything
//! the pod can reach (server-side request forgery). This crate answers one question before anything is dialled:
//! is this `host:port` a target of ours? Allowed are the ready pods of one InferencePool on the pool's own ports,
//! and what the operator named by hand.
//!
//! The rules, the set and the way it changes are pure ([`judge`], [`Rule`], [`Targets`]); around them
//! [`Allowlist`] keeps the set current with list and watch calls. Two promises shape it: a start never waits for
//! the API server, and a set that was complete once stays in force until a complete new one replaces it.

mod allowlist;
mod collection;
mod contact;
mod follow;
mod host;
mod pace;
mod pods;
mod pool;
mod pool_ref;
mod rules;
mod source;
mod targets;
mod trouble;
mod verdict;
mod view;
mod watch;
mod wire;

pub use allowlist::{Allowlist, AllowlistError, Status};
pub use host::Host;
pub use pool_ref::{PoolGroup, PoolRef, PoolRefError};
pub use rules::{Rule, RuleError};
pub use source::ClientSource;
pub use targets::{Targets, TargetsBuilder};
pub use verdict::{List, Verdict, judge};
