//! A real transfer to a peer: what a configuration promises is believed only once bytes have moved.
//!
//! One side runs `doctor --listen`, the other `doctor --peer`. Both open the agent that the sidecar itself uses, with
//! every fabric that this machine has; the agent chooses the lane, and each fabric is then measured by itself, so that a
//! fall to a slower one is seen beside what it would have been.

mod carriers;
mod measure;
mod offer;
mod serve;

use std::path::PathBuf;

use kvferry_transfer::fabric::ucx::Want as Lanes;

pub use carriers::Refused;
pub use measure::{Figures, Measured, measure};
pub use serve::serve;

use crate::judge::Want;

/// What both sides are told.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The file of UCX's library, instead of the first that is found.
    pub ucx_library: Option<PathBuf>,
    /// What every agent of the deployment knows.
    pub secret: Option<Vec<u8>>,
    /// What is expected of the way.
    pub want: Want,
}

impl Setup {
    /// Which lanes UCX may use. Those that it makes of messages are not for production, and slower than our own.
    fn lanes(&self) -> Lanes {
        if self.want == Want::Rdma { Lanes::Rdma } else { Lanes::ZeroCopy }
    }
}
