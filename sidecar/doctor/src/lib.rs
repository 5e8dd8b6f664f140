//! `kvferry-sidecar doctor`: is my RDMA used? And if not, what is in the way?
//!
//! From the bottom up, and one way only: [`facts`] are read from the machine (and from its libraries, each in a process of its
//! own: [`probe`]), [`judge`] makes findings of them, [`report`] shows them. Only facts touch the machine.

pub mod cli;
pub mod facts;
pub mod judge;
pub mod probe;
pub mod report;
