//! A bell as an eventfd is one, and what callers wait for: both count as rung until somebody has heard it.
//!
//! Whatever is shared here is in the standard library's `Arc`: loom's panics once more while a model that has failed is
//! cleaned up, which ends the process, and some of these tests are there to fail.

use std::sync::Arc;

use kvferry_inbox::Bell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};

#[derive(Debug, Default)]
pub struct Gong {
    rung: Mutex<bool>,
    heard: Condvar,
    times: AtomicUsize,
}

impl Bell for Gong {
    fn ring(&self) {
        self.times.fetch_add(1, Ordering::Relaxed);
        *self.rung.lock().unwrap() = true;
        self.heard.notify_all();
    }

    fn silence(&self) {
        *self.rung.lock().unwrap() = false;
    }
}

impl Gong {
    /// Sleeps until it is rung. It stays so, as a descriptor does that nobody has read.
    pub fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
    }

    /// Sleeps until it is rung, and is the only one to hear that: as with epoll, edge-triggered.
    pub fn hear(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }

    /// Whether it was rung and nobody had heard it.
    pub fn overhear(&self) -> bool {
        std::mem::take(&mut *self.rung.lock().unwrap())
    }

    /// How often it was rung.
    pub fn times(&self) -> usize {
        self.times.load(Ordering::Relaxed)
    }
}

/// An order whose end somebody waits for: it rings when it is dropped, obeyed or not.
#[derive(Debug)]
pub struct Answered(pub Arc<Gong>);

impl Drop for Answered {
    fn drop(&mut self) {
        // A model that has failed is being cleaned up: its locks are no more.
        if !std::thread::panicking() {
            self.0.ring();
        }
    }
}
