//! What a measurement adds up: one tally shared by all clients of the thread, because a histogram for each of 2,000 of
//! them would be half a gigabyte.

use std::cell::RefCell;
use std::time::Duration;

use serde::Serialize;

use super::histogram::{Latencies, Quantiles};
use super::job::Times;

/// Counts and latencies of one measurement.
#[derive(Debug, Default)]
pub struct Tally {
    sums: RefCell<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    active: bool,
    requests: u64,
    errors: u64,
    first_error: Option<String>,
    frames: u64,
    joined: u64,
    total: Latencies,
    first_byte: Latencies,
    transit: Latencies,
}

/// A finished tally.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Requests answered as they should be.
    pub requests: u64,
    /// Requests that were not, whenever they began.
    pub errors: u64,
    /// The first of the errors.
    pub first_error: Option<String>,
    /// SSE frames that arrived, each of which carries a token.
    pub frames: u64,
    /// Frames that arrived in one read with the frame before them.
    pub joined_frames: u64,
    /// From a request's start to its last byte.
    pub total: Quantiles,
    /// From a request's start to its first body byte.
    pub first_byte: Quantiles,
    /// From a frame's emission by the engine to its arrival.
    pub transit: Quantiles,
}

impl Tally {
    /// Begins or ends counting; errors count at any time.
    pub fn set_active(&self, active: bool) {
        self.sums.borrow_mut().active = active;
    }

    /// Counts one SSE frame.
    pub fn frame(&self, joined: bool, transit: Option<Duration>) {
        let mut sums = self.sums.borrow_mut();
        if !sums.active {
            return;
        }
        sums.frames += 1;
        sums.joined += u64::from(joined);
        if let Some(transit) = transit {
            sums.transit.record(transit);
        }
    }

    /// Counts one request.
    pub fn request(&self, result: Result<Times, String>) {
        let mut sums = self.sums.borrow_mut();
        match result {
            Ok(times) if sums.active => {
                sums.requests += 1;
                sums.total.record(times.total);
                sums.first_byte.record(times.first_byte);
            }
            Ok(_) => {}
            Err(error) => {
                sums.errors += 1;
                sums.first_error.get_or_insert(error);
            }
        }
    }

    /// Errors so far.
    pub fn errors(&self) -> u64 {
        self.sums.borrow().errors
    }

    /// The sums so far.
    pub fn summary(&self) -> Summary {
        let sums = self.sums.borrow();
        Summary {
            requests: sums.requests,
            errors: sums.errors,
            first_error: sums.first_error.clone(),
            frames: sums.frames,
            joined_frames: sums.joined,
            total: sums.total.quantiles(),
            first_byte: sums.first_byte.quantiles(),
            transit: sums.transit.quantiles(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { first_byte: Duration::from_micros(10), total: Duration::from_micros(20) };

    #[test]
    fn only_errors_count_outside_the_window() {
        let tally = Tally::default();
        tally.request(Ok(TIMES));
        tally.frame(false, None);
        tally.request(Err("first".to_owned()));
        tally.set_active(true);
        tally.request(Ok(TIMES));
        tally.frame(true, Some(Duration::from_micros(5)));
        tally.request(Err("second".to_owned()));
        let summary = tally.summary();
        assert_eq!((summary.requests, summary.errors), (1, 2));
        assert_eq!((summary.frames, summary.joined_frames, summary.transit.count), (1, 1, 1));
        assert_eq!(summary.first_error.as_deref(), Some("first"));
    }
}
