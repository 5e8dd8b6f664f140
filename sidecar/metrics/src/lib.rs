//! What is counted and timed, under the names that dashboards know (spec/sidecar.md 7 and 12.6).
//!
//! What it guards: recording takes no lock and allocates nothing, so it may stand on a request's way; and the number
//! of series is known at compile time, because every label is an enum of ours or comes from a list that is fixed at
//! start. No peer, model or request can add a series.
//!
//! Values that live elsewhere, such as the ledger's, are not copied here as they change: whoever scrapes brings a
//! [`Source`] that reads them.

mod by_label;
mod cells;
mod histogram;
mod labels;
mod metrics;
mod outcomes;
mod process;
mod reading;
mod running;
mod scraped;

pub mod buckets;

pub use labels::{
    Api, Connection, Direction, Disaggregation, Failover, FirstToken, Labels, Leg, PeerState, Place,
    PushDispatch, ReleaseReason, Retry, Settled, Speculative, Stage, WarmUp,
};
pub use metrics::{CONTENT_TYPE, Metrics, Tokens};
pub use outcomes::{CLIENT_LEFT, OK, OTHER};
pub use reading::{KvCounts, Reading, Source, Values};
pub use running::{Busy, Running};
