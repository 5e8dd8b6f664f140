//! Spans that wait for export. Putting one in never waits for more than another being put in; when the queue is full
//! the span is dropped and counted.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::Notify;

/// The queue between requests and the thread that exports.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    /// Tells the exporting thread that a batch is full or the queue closed.
    wake: Notify,
    lost: AtomicU64,
    /// Most that wait.
    limit: usize,
    /// So many are worth an export before its time.
    batch: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: Vec<SpanData>,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(limit: usize, batch: usize) -> Self {
        Self { waiting: Mutex::default(), wake: Notify::new(), lost: AtomicU64::new(0), limit, batch }
    }

    /// Puts a span in, if there is room and the queue is open.
    pub(crate) fn push(&self, span: SpanData) {
        let mut waiting = self.lock();
        if waiting.closed || waiting.spans.len() >= self.limit {
            drop(waiting);
            self.lost(1);
            return;
        }
        waiting.spans.push(span);
        let full = waiting.spans.len() == self.batch;
        drop(waiting);
        if full {
            self.wake.notify_one();
        }
    }

    /// All that waits, and whether nothing will follow.
    pub(crate) fn take(&self) -> (Vec<SpanData>, bool) {
        let mut waiting = self.lock();
        (mem::take(&mut waiting.spans), waiting.closed)
    }

    /// Returns when there may be something to take before its time.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Nothing is put in from now on.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// So many spans will never arrive.
    pub(crate) fn lost(&self, spans: u64) {
        self.lost.fetch_add(spans, Ordering::Relaxed);
    }

    /// Spans that never arrived, since the start.
    pub(crate) fn lost_so_far(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
