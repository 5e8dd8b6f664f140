//! The agent: what an owner of memory needs to move blocks to and from other agents, over whatever fabrics the two have in
//! common.
//!
//! An [`Agent`] holds several fabrics in order of preference, meets other agents over a control connection, and then:
//! - gives **regions** and **leases** one number and one token, whatever each fabric calls them;
//! - cuts **transfers** into chunks, lets them take turns, stripes them over rails, and tries what failed again, over the
//!   same lane or another one, until the deadline that every transfer has;
//! - **verifies**, if asked, every segment by checksums of both sides before it counts;
//! - tells the truth in a [`Report`]: which lanes carried how much, and what was tried again, why;
//! - **fences** everything by peer and epoch: what was begun with an earlier life of a peer fails with
//!   [`Error::StaleEpoch`], and is never read.
//!
//! What decides is pure ([`core`]); one thread does it ([`Agent::open`] starts it). It sleeps when there is nothing to do.
//!
//! **Trust.** A peer that was let in can reach what leases allow it, for as long as they do, and no more (within what the
//! fabrics promise, see [`kvferry_transfer::fabric`]). Who is let in: whoever proves to know the [secret](Secret), and, with
//! [TLS](Tls), has a certificate that the configurations accept. With neither, everybody who can connect: that is for
//! networks where nobody else can. The secret is proven when a connection is made; only TLS protects what is said later.

mod agent;
mod books;
pub mod core;
mod digest;
mod error;
mod events;
pub mod limits;
mod options;
mod protocol;
mod report;
mod roster;
mod shell;
mod snapshot;
mod transfer;

pub use agent::Agent;
pub use error::Error;
pub use events::{Event, Events, Peer};
pub use options::{Carrier, Options, Secret, Tls, TransferOptions};
pub use report::{Failure, LaneUse, Report, Retry};
pub use snapshot::{PeerView, Snapshot};
pub use transfer::Transfer;
