//! KV blocks from one process to another, point to point.
//!
//! Nothing here knows HTTP, tokens or engines. From the bottom up:
//!
//! - [`memory`]: regions that blocks lie in, and arenas, which are regions that other processes can map;
//! - [`fabric`]: one trait, and behind it the ways to move bytes between regions of two processes;
//!
//! A fabric moves [`Segment`]s and says how it ended. What may be moved is a [`Lease`]: the side whose memory it is
//! grants it, and checks every range against it.

pub mod error;
pub mod fabric;
mod ids;
mod lease;
pub mod memory;
mod segment;

pub use error::{Error, Fault};
pub use ids::{AgentName, Epoch, PeerId, RegionId, Token, TransferId};
pub use lease::{Access, Lease, Leases, Refused, Use};
pub use segment::{Place, Segment, Span};
