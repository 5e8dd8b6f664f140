//! `kvferry-sidecar doctor`: is my RDMA used? And if not, what is in the way?
//!
//! From the bottom up, and one way only: [`facts`] are read from the machine (and from its libraries, each in a process of its
//! own: [`probe`]), a real transfer is measured with a [`peer`] if one is named, [`judge`] makes findings of all that, and
//! [`report`] shows them.

pub mod cli;
pub mod facts;
pub mod judge;
pub mod peer;
pub mod probe;
pub mod report;
