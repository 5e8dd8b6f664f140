//! How much at a time, and how long. The defaults are the agent's limits; tests take less of everything.

use std::time::Duration;

use crate::limits::{CHUNK_BYTES, CHUNK_SEGMENTS, LANE_BYTES, LANE_CHUNKS, MAX_CHUNKS};

/// See the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The most bytes of a chunk.
    pub chunk_bytes: u64,
    /// The most segments of a chunk.
    pub chunk_segments: usize,
    /// Bytes under way on a lane from which on no further chunk is begun. So there is less than that and a chunk.
    pub lane_bytes: u64,
    /// The most chunks under way on a lane.
    pub lane_chunks: usize,
    /// The most chunks under way with all peers.
    pub chunks: usize,
    /// How long a chunk may take, to move and to be checked, before it is tried elsewhere. A chunk of 8 MiB takes 7 s at
    /// 10 Mbit/s; what takes longer is broken.
    pub chunk_within: Duration,
    /// How long what was cancelled may take to end, and the same again after its lane was left.
    pub stop_within: Duration,
    /// How long meeting a peer over a lane may take.
    pub reach_within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            chunk_bytes: CHUNK_BYTES,
            chunk_segments: CHUNK_SEGMENTS,
            lane_bytes: LANE_BYTES,
            lane_chunks: LANE_CHUNKS,
            chunks: MAX_CHUNKS,
            chunk_within: Duration::from_secs(30),
            // The fabrics part from a peer that does not stop within 5 s; this waits a little longer than they do.
            stop_within: Duration::from_secs(6),
            reach_within: Duration::from_secs(12),
        }
    }
}
