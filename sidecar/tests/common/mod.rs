//! What all integration tests of the sidecar stand on: two emulated engines with the sidecar between them, clients that
//! behave and clients that do not, and the rule that every test ends with nothing left behind.

#![expect(dead_code, reason = "each test program uses its part of this")]
#![expect(unused_imports, reason = "each test program uses its part of this")]

mod client;
mod compare;
mod raw;
mod requests;
mod rig;
mod scripted;

use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Ask, Client, Opened, Protocol};
pub(crate) use compare::{content, events, without};
pub(crate) use raw::Raw;
pub(crate) use requests::{APIS, Route, prompt};
pub(crate) use rig::{LEASE, Rig, Setup, Sidecar, reserve_port};
pub(crate) use scripted::{Exchange, Received, Scripted, chunk, json_answer, sse_head};

/// Longest a test waits for something that must happen. Far more than it takes, even on a busy machine; a test that
/// passes never waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a state that is waited for.
const LOOK: Duration = Duration::from_millis(3);

/// The header that asks for a handoff, in its old spelling.
pub(crate) const PREFILLER: &str = "x-prefiller-host-port";

/// For prefill engines that never answer: the sidecar need not listen to them for long.
pub(crate) const SHORT_GRACE: &str = "--prefill-cancel-grace=50ms";

/// For prefill engines that answer at last, however busy the machine: what they hand out is always heard.
pub(crate) const LONG_GRACE: &str = "--prefill-cancel-grace=60s";

/// The result of `work`, or a failed test that says what did not happen.
pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// Waits until `done` holds.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Reproducible numbers for schedules that are to differ between attempts.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The splitmix64 step: every seed gives a sequence that looks random.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}
