//! A stage while it runs. The type holds the rules of what is sampled, so that no path through a connector can break
//! them: it ends in exactly one way, and one that nobody ends was aborted, which is an error with a duration.

use std::time::Instant;

use crate::labels::{Place, Stage};
use crate::metrics::Metrics;

/// A request that is somewhere, counted there until this is dropped.
#[derive(Debug)]
#[must_use = "it counts only while it is kept"]
pub struct Busy {
    metrics: Metrics,
    place: Place,
}

impl Busy {
    pub(crate) fn new(metrics: Metrics, place: Place) -> Self {
        metrics.in_flight(place, 1);
        Self { metrics, place }
    }

    /// The request goes on to another place.
    pub fn move_to(&mut self, place: Place) {
        self.metrics.in_flight(self.place, -1);
        self.metrics.in_flight(place, 1);
        self.place = place;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.metrics.in_flight(self.place, -1);
    }
}

/// A stage that runs. Dropping it without a word means it was aborted: its duration counts, and so does an error.
#[derive(Debug)]
#[must_use = "a stage that is dropped counts as aborted"]
pub struct Running {
    busy: Busy,
    stage: Stage,
    started: Instant,
    end: End,
}

/// What is counted when the stage is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Served,
    Failed,
    Discarded,
}

impl Running {
    pub(crate) fn new(metrics: Metrics, stage: Stage) -> Self {
        let place = match stage {
            Stage::Encode => Place::Encode,
            Stage::Prefill => Place::Prefill,
            Stage::Decode => Place::Decode,
        };
        Self { busy: Busy::new(metrics, place), stage, started: Instant::now(), end: End::Failed }
    }

    /// It did what it should.
    pub fn served(mut self) {
        self.end = End::Served;
    }

    /// It answered with an error, not at all, or its answer could not be passed on.
    pub fn failed(self) {
        drop(self);
    }

    /// It says nothing about this stage: decode given up because prefill failed, a decode-first attempt that falls back.
    pub fn discarded(mut self) {
        self.end = End::Discarded;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end != End::Discarded {
            self.busy.metrics.stage_took(self.stage, self.started.elapsed());
        }
        if self.end == End::Failed {
            self.busy.metrics.stage_failed(self.stage);
        }
    }
}
