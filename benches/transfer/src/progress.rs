//! A bar on standard error, and only where somebody sees it: on a terminal.

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::Instant;

/// Characters of the bar.
const WIDTH: usize = 24;

/// Characters of the words behind it: a line that wraps could not be written over.
const WORDS: usize = 48;

/// How far a run is.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    steps: usize,
    done: Cell<usize>,
    begin: Instant,
}

impl Progress {
    /// Of a run of so many steps; not shown if `quiet` or without a terminal.
    pub fn new(steps: usize, quiet: bool) -> Self {
        Self { shown: !quiet && stderr().is_terminal(), steps, done: Cell::new(0), begin: Instant::now() }
    }

    /// What is done now.
    pub fn now(&self, what: &str) {
        if self.shown {
            let line = line(self.done.get(), self.steps, self.begin.elapsed().as_secs(), what);
            // A bar that cannot be drawn is no reason to stop.
            let _ = write!(stderr(), "\r{line}\x1b[K");
            let _ = stderr().flush();
        }
    }

    /// A step is done.
    pub fn step(&self) {
        self.done.set(self.done.get() + 1);
    }

    /// Removes the bar: something else is to be written.
    pub fn clear(&self) {
        if self.shown {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}

fn line(done: usize, steps: usize, seconds: u64, what: &str) -> String {
    let done = done.min(steps);
    let full = (done * WIDTH).checked_div(steps).unwrap_or(0);
    let words: String = what.chars().take(WORDS).collect();
    format!("[{}{}] {done}/{steps} {seconds} s  {words}", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_the_run_is_done_and_never_longer_than_a_line() {
        assert_eq!(line(1, 2, 3, "tcp"), "[############------------] 1/2 3 s  tcp");
        assert!(line(5, 2, 0, "x").contains("2/2") && line(0, 0, 0, "x").contains("0/0"));
        assert!(line(1, 2, 3, &"x".repeat(500)).len() < 100);
    }
}
