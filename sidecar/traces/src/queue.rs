//! Spans that wait for export. Putting some in never waits for more than others being put in; when the queue is full
//! they are dropped and counted.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::tree::Request;

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
    requests: Vec<Request>,
    /// Of all of them.
    spans: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(limit: usize, batch: usize) -> Self {
        Self { waiting: Mutex::default(), wake: Notify::new(), lost: AtomicU64::new(0), limit, batch }
    }

    /// Puts a request's spans in, as many as there is room for, if the queue is open.
    pub(crate) fn push(&self, mut request: Request) {
        let all = request.len();
        let mut waiting = self.lock();
        let before = waiting.spans;
        request.truncate(if waiting.closed { 0 } else { self.limit - before });
        let taken = request.len();
        if taken > 0 {
            waiting.requests.push(request);
            waiting.spans += taken;
        }
        drop(waiting);
        if taken < all {
            self.lost((all - taken) as u64);
        }
        if before < self.batch && before + taken >= self.batch {
            self.wake.notify_one();
        }
    }

    /// All that waits, and whether nothing will follow.
    pub(crate) fn take(&self) -> (Vec<Request>, bool) {
        let mut waiting = self.lock();
        waiting.spans = 0;
        (mem::take(&mut waiting.requests), waiting.closed)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::request_of;

    fn spans(of: &[Request]) -> usize {
        of.iter().map(Request::len).sum()
    }

    #[test]
    fn what_does_not_fit_is_lost_and_counted_and_taking_makes_room() {
        let queue = Queue::new(10, 5);
        for _ in 0..3 {
            queue.push(request_of(6));
        }
        assert_eq!((spans(&queue.take().0), queue.lost_so_far()), (10, 8));
        queue.push(request_of(6));
        assert_eq!((spans(&queue.take().0), queue.lost_so_far()), (6, 8));
    }

    #[test]
    fn a_closed_queue_takes_nothing_more_and_keeps_what_it_has() {
        let queue = Queue::new(10, 5);
        queue.push(request_of(2));
        queue.close();
        queue.push(request_of(3));
        let (taken, closed) = queue.take();
        assert_eq!((spans(&taken), closed, queue.lost_so_far()), (2, true, 3));
    }

    #[tokio::test]
    async fn a_full_batch_wakes_the_exporter_however_it_came_together() {
        let queue = Queue::new(100, 5);
        queue.push(request_of(4));
        queue.push(request_of(4));
        queue.woken().await;
    }
}
