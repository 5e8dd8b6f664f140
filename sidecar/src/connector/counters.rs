//! What connectors count, for metrics to read.

use std::sync::Arc;

pub use super::moriio::DnsCounters;
pub use super::push::PushCounters;

/// One for the process.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Names of MoRI-IO hosts.
    pub dns: Arc<DnsCounters>,
    /// `nixlv2` in push mode.
    pub push: Arc<PushCounters>,
}
