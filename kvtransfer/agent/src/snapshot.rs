//! How the agent does, for metrics: sums that never shrink while it is open. Taking one looks at every lane once (some ms for
//! 4096 peers), on the agent's thread.

use kvferry_transfer::{AgentName, Epoch};

use crate::core::LaneView;

/// A peer and how each lane to it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Who.
    pub name: AgentName,
    /// Which life.
    pub epoch: Epoch,
    /// Its lanes.
    pub lanes: Vec<LaneView>,
}

/// How the agent does: for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its peers.
    pub peers: Vec<PeerView>,
    /// What lanes to peers that are gone have carried, by label: with those of the peers, sums that never shrink.
    pub past: Vec<LaneView>,
    /// Transfers that have not ended.
    pub transfers: usize,
    /// Chunks under way.
    pub chunks: usize,
    /// Leases that have not been freed.
    pub leases: usize,
    /// Bytes of events that wait to be taken.
    pub unheard: u64,
    /// How often its thread has woken up since it began.
    pub wakeups: u64,
}
