//! A way to a peer: whether it can be used, what is under way on it, and how it has done so far.

use std::sync::Arc;
use std::time::Duration;

use kvferry_transfer::fabric::{self, Copying};

use super::{Pace, Time};
use crate::Error;
use crate::limits::{LANE_REST, LANE_REST_MOST};

/// A lane as the caller describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSpec {
    /// What reports call it.
    pub label: Arc<str>,
    /// Which tier it is of: 0 is best. Lanes of one tier are striped over.
    pub tier: u8,
    /// Which tier it is of when its bytes turn out to go through sockets, or in a library's own messages.
    pub copied_tier: u8,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It was not needed so far.
    Untried,
    /// The fabric is on its way to the peer.
    Reaching,
    /// It can be used.
    Up,
    /// The fabric parts from the peer.
    Leaving(Error),
    /// It cannot be used, for that reason, until it is tried again.
    Down(Error),
    /// It cannot be used in this life of the peer.
    Dead(Error),
    /// There is no such lane between these two: they are not on one host, say.
    Absent,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) spec: LaneSpec,
    pub(super) state: State,
    /// Failures in a row.
    pub(super) failures: u32,
    /// What is under way.
    pub(super) bytes: u64,
    pub(super) chunks: usize,
    pub(super) counts: LaneView,
    /// Since when something is under way.
    busy_since: Time,
}

/// How a lane does: for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneView {
    /// What reports call it.
    pub label: Arc<str>,
    /// What really carries the bytes, once it was up. It may be another one after it was lost.
    pub way: Option<Arc<fabric::Lane>>,
    /// Whether what carries the bytes is slower than such a lane should be, so that others go before it.
    pub demoted: bool,
    /// `up`, `down`, ... and `gone`, where the peer is.
    pub state: &'static str,
    /// Why it is not up, if it failed.
    pub reason: Option<Error>,
    /// Bytes that arrived over it.
    pub bytes: u64,
    /// Chunks that arrived over it.
    pub chunks: u64,
    /// Chunks that had to be tried again, here or elsewhere.
    pub retries: u64,
    /// Chunks that arrived with wrong bytes.
    pub corrupt: u64,
    /// Transfers that it had to carry because a faster lane failed.
    pub fallbacks: u64,
    /// How often it was lost or could not be reached.
    pub losses: u64,
    /// For how long something was under way on it, until now.
    pub busy: Duration,
}

impl LaneView {
    fn new(spec: &LaneSpec) -> Self {
        Self {
            label: Arc::clone(&spec.label),
            way: None,
            demoted: false,
            state: "untried",
            reason: None,
            bytes: 0,
            chunks: 0,
            retries: 0,
            corrupt: 0,
            fallbacks: 0,
            losses: 0,
            busy: Duration::ZERO,
        }
    }

    /// Of lanes to peers that are gone.
    pub(super) fn past(spec: &LaneSpec) -> Self {
        Self { state: "gone", ..Self::new(spec) }
    }

    /// Counts what another one did.
    pub(super) fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.chunks += other.chunks;
        self.retries += other.retries;
        self.corrupt += other.corrupt;
        self.fallbacks += other.fallbacks;
        self.losses += other.losses;
        self.busy += other.busy;
    }

    /// Bytes per second while it was busy, in GB/s.
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    pub fn gigabytes_per_second(&self) -> f64 {
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 / seconds / 1e9 } else { 0.0 }
    }
}

impl Lane {
    pub(super) fn new(spec: LaneSpec) -> Self {
        let counts = LaneView::new(&spec);
        Self { spec, state: State::Untried, failures: 0, bytes: 0, chunks: 0, counts, busy_since: Time::ZERO }
    }

    /// Whether it is slower than its tier, by what was last found to carry the bytes. A fabric of sockets is no worse for that:
    /// its two tiers are one.
    pub(super) fn is_demoted(&self) -> bool {
        self.tier() > self.spec.tier
    }

    /// The tier that it is of by now.
    pub(super) fn tier(&self) -> u8 {
        match self.counts.way.as_ref().map(|way| way.copying) {
            Some(Copying::Socket | Copying::Emulated) => self.spec.copied_tier,
            Some(Copying::ZeroCopy | Copying::Untold) | None => self.spec.tier,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether one more chunk may be under way. Whatever its size: if small ones were let past a large one that does not
    /// fit, they could keep it out for ever.
    pub(super) fn has_room(&self, pace: &Pace) -> bool {
        self.chunks < pace.lane_chunks && self.bytes < pace.lane_bytes
    }

    pub(super) fn begin(&mut self, now: Time, bytes: u64) {
        if self.chunks == 0 {
            self.busy_since = now;
        }
        self.chunks += 1;
        self.bytes += bytes;
    }

    pub(super) fn end(&mut self, now: Time, bytes: u64) {
        self.chunks -= 1;
        self.bytes -= bytes;
        if self.chunks == 0 {
            self.counts.busy += now.saturating_sub(self.busy_since);
        }
    }

    /// How long it rests after its last failure.
    pub(super) fn rest(&self) -> Duration {
        LANE_REST.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(LANE_REST_MOST)
    }

    pub(super) fn view(&self, now: Time) -> LaneView {
        let (state, reason) = self.state();
        let since = if self.chunks > 0 { now.saturating_sub(self.busy_since) } else { Duration::ZERO };
        let (busy, demoted) = (self.counts.busy + since, self.is_demoted());
        LaneView { state, reason: reason.cloned(), busy, demoted, ..self.counts.clone() }
    }

    fn state(&self) -> (&'static str, Option<&Error>) {
        match &self.state {
            State::Untried => ("untried", None),
            State::Reaching => ("connecting", None),
            State::Up => ("up", None),
            State::Leaving(why) => ("leaving", Some(why)),
            State::Down(why) => ("down", Some(why)),
            State::Dead(why) => ("dead", Some(why)),
            State::Absent => ("absent", None),
        }
    }

    /// For people: what it is and why it cannot be used.
    pub(super) fn describe(&self) -> String {
        let (label, (state, reason)) = (&self.spec.label, self.state());
        match (reason, &self.counts.way) {
            (Some(why), _) => format!("{label} is {state} ({why})"),
            (None, Some(way)) if self.is_demoted() => format!("{label} is {state}, but by {way}"),
            (None, _) => format!("{label} is {state}"),
        }
    }
}
