//! What arrives: which route it is for, what its headers say and which of them may go on, and its body.

mod asked;
pub mod batch;
pub mod headers;
pub mod intake;
pub mod route;
pub mod stateful;

pub use asked::Asked;
