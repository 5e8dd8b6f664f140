//! What is measured: the list of cells, each one kind of load on every side, and how long. Two cores and six minutes have
//! to be enough, so windows are short and rounds alternate instead.

use std::time::Duration;

use super::sides::{Role, Side};

/// Bytes in a KB of the body sizes.
const KB: usize = 1024;

/// The smallest body: a short chat turn.
pub(super) const SMALL: usize = KB;

/// A long prompt, about 50,000 tokens.
pub(super) const LARGE: usize = 220 * KB;

/// Body sizes of the throughput cells, with their names.
pub(super) const SIZES: [(usize, &str); 4] =
    [(SMALL, "1kb"), (32 * KB, "32kb"), (LARGE, "220kb"), (2 * KB * KB, "2mb")];

/// SSE frames of a stream that is not paced: a short answer.
const BURST_FRAMES: u64 = 16;

/// Cell of the throughput ratios; followed by the size.
pub(super) const THROUGHPUT: &str = "closed-c32";

/// Cell of the latency ratios with one connection, 1 KB.
pub(super) const ONE_CONNECTION: &str = "closed-c1-1kb";

/// Cell of the ratio with 2,000 streams.
pub(super) const MANY_STREAMS: &str = "streams-2000";

/// Cell of the CPU time per SSE frame.
pub(super) const FRAMES: &str = "frames-50-streams";

/// Cell that the plot shows for latency under a fixed arrival rate.
pub(super) const OPEN_LOOP: &str = "open-500rps-1kb";

/// How clients arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// This many clients, each waiting for its answer.
    Closed(usize),
    /// This many requests a second, come what may.
    Open(u32),
    /// This many streams open at any moment.
    Streams(usize),
}

/// A streamed answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// SSE frames, `[DONE]` not counted.
    pub frames: u64,
    /// Time between two of them, microseconds; 0 for as fast as can be written.
    pub pace_us: u64,
}

impl Streaming {
    /// How long one stream lasts by its pace.
    pub fn length(self) -> Duration {
        Duration::from_micros(self.frames.saturating_sub(1) * self.pace_us)
    }
}

/// One kind of load.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its name, as in the table, the JSON and `--only`.
    pub name: String,
    /// How clients arrive.
    pub arrivals: Arrivals,
    /// Body size, bytes.
    pub body_bytes: usize,
    /// Whether answers are streamed, and how; `None` for one JSON object.
    pub streaming: Option<Streaming>,
    /// How often each side is measured, alternating.
    pub rounds: u32,
    /// How long each time.
    pub window: Duration,
    /// Whether quick runs leave out the sides that no ratio of this cell needs.
    pub ratios_only: bool,
}

impl Cell {
    /// Whether `side` is measured here.
    pub fn wants(&self, side: &Side) -> bool {
        !self.ratios_only
            || match self.name.as_str() {
                MANY_STREAMS => side.split,
                FRAMES | ONE_CONNECTION => side.split || side.role != Role::Sidecar,
                _ => side.split && side.role != Role::Direct,
            }
    }
}

/// The cells of a run.
pub(super) fn cells(quick: bool, only: Option<&str>) -> Vec<Cell> {
    let mut cells = if quick { quick_cells() } else { full_cells() };
    if let Some(only) = only {
        cells.retain(|cell| cell.name.contains(only));
    }
    cells
}

fn full_cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (bytes, size) in SIZES {
        let rounds = if bytes == SMALL || bytes == LARGE { 5 } else { 3 };
        cells.push(closed(&format!("{THROUGHPUT}-{size}"), 32, bytes, rounds, 700));
    }
    cells.push(closed(ONE_CONNECTION, 1, SMALL, 5, 500));
    cells.push(closed("closed-c1-220kb", 1, LARGE, 3, 500));
    cells.push(closed("closed-c256-1kb", 256, SMALL, 3, 700));
    for (bytes, size) in SIZES {
        let streaming = Some(Streaming { frames: BURST_FRAMES, pace_us: 0 });
        cells.push(Cell { streaming, ..closed(&format!("stream-c32-{size}"), 32, bytes, 3, 400) });
    }
    for (rate, bytes, size) in [(500, SMALL, "1kb"), (1500, SMALL, "1kb"), (100, LARGE, "220kb")] {
        let arrivals = Arrivals::Open(rate);
        cells.push(Cell { arrivals, ..closed(&format!("open-{rate}rps-{size}"), 0, bytes, 3, 700) });
    }
    cells.push(paced("streams-1", 1, Streaming { frames: 20, pace_us: 10_000 }, 3, 600));
    cells.push(paced(FRAMES, 50, FRAME_PACE, 3, 1_500));
    cells.push(paced(MANY_STREAMS, 2_000, MANY_PACE, 5, 1_200));
    cells
}

fn quick_cells() -> Vec<Cell> {
    let mut cells = vec![
        closed(&format!("{THROUGHPUT}-1kb"), 32, SMALL, 2, 500),
        closed(&format!("{THROUGHPUT}-220kb"), 32, LARGE, 2, 500),
        closed(ONE_CONNECTION, 1, SMALL, 3, 300),
        paced(FRAMES, 50, FRAME_PACE, 1, 1_500),
        paced(MANY_STREAMS, 2_000, MANY_PACE, 3, 700),
    ];
    for cell in &mut cells {
        cell.ratios_only = true;
    }
    cells
}

/// 10,000 frames a second from 50 streams, each a wake-up of its own; 300 frames make the request around them vanish.
const FRAME_PACE: Streaming = Streaming { frames: 300, pace_us: 5_000 };

/// 20,000 frames and 1,800 new streams a second from 2,000 of them: busy, but no side saturates two cores.
const MANY_PACE: Streaming = Streaming { frames: 12, pace_us: 100_000 };

fn closed(name: &str, connections: usize, body_bytes: usize, rounds: u32, window_ms: u64) -> Cell {
    Cell {
        name: name.to_owned(),
        arrivals: Arrivals::Closed(connections),
        body_bytes,
        streaming: None,
        rounds,
        window: Duration::from_millis(window_ms),
        ratios_only: false,
    }
}

fn paced(name: &str, streams: usize, streaming: Streaming, rounds: u32, window_ms: u64) -> Cell {
    let arrivals = Arrivals::Streams(streams);
    Cell { arrivals, streaming: Some(streaming), ..closed(name, 0, SMALL, rounds, window_ms) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cell_that_a_ratio_needs_is_in_both_plans() {
        for quick in [false, true] {
            let names: Vec<String> = cells(quick, None).into_iter().map(|cell| cell.name).collect();
            for needed in ["closed-c32-1kb", "closed-c32-220kb", ONE_CONNECTION, FRAMES, MANY_STREAMS] {
                assert!(names.iter().any(|name| name == needed), "{needed}, quick: {quick}");
            }
            assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len(), "names are unique");
        }
        assert!(cells(false, None).iter().any(|cell| cell.name == OPEN_LOOP));
    }

    #[test]
    fn only_selects_by_part_of_the_name() {
        let cells = cells(false, Some("220kb"));
        assert!(cells.len() > 2 && cells.iter().all(|cell| cell.body_bytes == LARGE));
    }

    #[test]
    fn measured_time_of_six_sides_fits_the_promise() {
        let seconds = |quick| {
            let cells = cells(quick, None);
            let time = |cell: &Cell| {
                let ramp = match cell.arrivals {
                    Arrivals::Streams(_) => {
                        cell.streaming.map_or(Duration::ZERO, Streaming::length).mul_f64(1.25)
                    }
                    _ => Duration::ZERO,
                };
                (cell.window + ramp) * cell.rounds * if quick { 3 } else { 6 }
            };
            cells.iter().map(time).sum::<Duration>().as_secs()
        };
        assert!(seconds(false) < 330, "{}", seconds(false));
        assert!(seconds(true) < 50, "{}", seconds(true));
    }
}
