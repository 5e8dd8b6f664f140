//! Where the histograms' bounds lie, and why there.
//!
//! Bounds are constants: dashboards of many sidecars can only be added up if all of them have the same. About two per
//! doubling near the values one tunes for, fewer where only the order of magnitude matters.

/// Most bounds that a histogram may have: its cells are a fixed array.
pub const MAX_BOUNDS: usize = 35;

/// Ascending upper bounds in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Buckets(&'static [u64]);

impl Buckets {
    /// Checked at compile time, since every use is a constant.
    const fn new(bounds: &'static [u64]) -> Self {
        assert!(!bounds.is_empty() && bounds.len() <= MAX_BOUNDS, "1 to MAX_BOUNDS bounds");
        let mut index = 1;
        while index < bounds.len() {
            assert!(bounds[index - 1] < bounds[index], "bounds ascend");
            index += 1;
        }
        Self(bounds)
    }

    /// Upper bounds in nanoseconds.
    pub fn bounds(self) -> &'static [u64] {
        self.0
    }

    /// The first bucket that takes a duration of so many nanoseconds; one beyond the last bound if none does.
    pub(crate) fn index(self, nanos: u64) -> usize {
        self.0.partition_point(|bound| *bound < nanos)
    }
}

const fn us(count: u64) -> u64 {
    count * 1_000
}

const fn ms(count: u64) -> u64 {
    us(count * 1_000)
}

const fn s(count: u64) -> u64 {
    ms(count * 1_000)
}

/// A whole leg, from 5 ms (a cached short prompt, a refused request) to an hour. The bounds are those that all of llm-d's
/// components have for durations of requests: legs that its sidecar measured and legs measured here can be added up.
pub const STAGE: Buckets = Buckets::new(&[
    ms(5),
    ms(25),
    ms(50),
    ms(100),
    ms(200),
    ms(400),
    ms(600),
    ms(800),
    s(1),
    ms(1_250),
    ms(1_500),
    s(2),
    s(3),
    s(4),
    s(5),
    s(6),
    s(8),
    s(10),
    s(15),
    s(20),
    s(30),
    s(45),
    s(60),
    s(120),
    s(180),
    s(240),
    s(300),
    s(360),
    s(480),
    s(600),
    s(900),
    s(1_200),
    s(1_800),
    s(2_700),
    s(3_600),
]);

/// Time to first token. From 5 ms (everything cached, tiny model) to 10 minutes (a long prompt behind a long queue),
/// dense between 50 ms and 10 s, where service levels are set.
pub const TTFT: Buckets = Buckets::new(&[
    ms(5),
    ms(10),
    ms(20),
    ms(35),
    ms(50),
    ms(75),
    ms(100),
    ms(150),
    ms(200),
    ms(300),
    ms(400),
    ms(600),
    ms(800),
    ms(1_200),
    ms(1_600),
    ms(2_500),
    s(4),
    s(6),
    s(10),
    s(20),
    s(40),
    s(80),
    s(160),
    s(300),
    s(600),
]);

/// From the end of prefill to the first byte of decode: what disaggregation itself costs. 0.5 ms is our own part of it,
/// milliseconds are a KV transfer over RDMA, 0.1 to 1 s one over TCP, 2 s and more a handshake between new peers.
pub const HANDOVER: Buckets = Buckets::new(&[
    us(500),
    ms(1),
    ms(2),
    ms(3),
    ms(5),
    ms(8),
    ms(12),
    ms(20),
    ms(35),
    ms(50),
    ms(75),
    ms(100),
    ms(150),
    ms(250),
    ms(400),
    ms(700),
    s(1),
    s(2),
    s(4),
    s(10),
    s(30),
]);

/// Between two pieces of a streamed answer. From 1 ms (several tokens at once) over 5 to 100 ms, where a reader's eye
/// and every service level lie, to 10 s (the engine stalled).
pub const INTER_TOKEN: Buckets = Buckets::new(&[
    ms(1),
    ms(2),
    ms(3),
    ms(4),
    ms(5),
    us(7_500),
    ms(10),
    us(12_500),
    ms(15),
    ms(20),
    ms(25),
    ms(30),
    ms(40),
    ms(50),
    ms(60),
    ms(80),
    ms(100),
    ms(150),
    ms(200),
    ms(300),
    ms(500),
    s(1),
    s(2),
    s(5),
    s(10),
]);

/// All of them.
pub const ALL: &[Buckets] = &[STAGE, TTFT, HANDOVER, INTER_TOKEN];
