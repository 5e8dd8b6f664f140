//! The thread that exports: it collects what waits, sends it, and says once when the collector goes away or comes back.
//!
//! It has a runtime of its own, so neither a slow collector nor the encoding of spans takes time from requests.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::runtime::{self, Runtime};

use crate::config::Batching;
use crate::error::TraceError;
use crate::queue::Queue;
use crate::tree::Request;

/// The near end.
#[derive(Debug)]
pub(crate) struct Exporting {
    queue: Arc<Queue>,
    /// Disconnected when the thread is done.
    done: Mutex<mpsc::Receiver<()>>,
}

/// A runtime for exporting, on which exporters are made before [`start`] takes both.
pub(crate) fn runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build()
}

/// Exports what comes into `queue` until it is closed.
pub(crate) fn start<E: SpanExporter + 'static>(
    runtime: Runtime,
    exporter: E,
    queue: Arc<Queue>,
    batching: Batching,
    scope: InstrumentationScope,
) -> io::Result<Exporting> {
    let (ended, done) = mpsc::channel();
    let from = Arc::clone(&queue);
    thread::Builder::new().name("traces".to_owned()).spawn(move || {
        let _ended: mpsc::Sender<()> = ended;
        runtime.block_on(export(&exporter, &from, batching, &scope));
    })?;
    Ok(Exporting { queue, done: Mutex::new(done) })
}

impl Exporting {
    /// Has what waits sent, within `limit`, and ends.
    pub(crate) fn finish(&self, limit: Duration) -> Result<(), TraceError> {
        self.queue.close();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match done.recv_timeout(limit) {
            Err(mpsc::RecvTimeoutError::Timeout) => Err(TraceError::NotFlushed { limit }),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

async fn export<E: SpanExporter>(
    exporter: &E,
    queue: &Queue,
    batching: Batching,
    scope: &InstrumentationScope,
) {
    let mut reachable = true;
    loop {
        tokio::select! {
            () = queue.woken() => {}
            () = tokio::time::sleep(batching.delay) => {}
        }
        let (waiting, closed) = queue.take();
        let mut waiting = VecDeque::from(waiting);
        loop {
            let spans = batch(&mut waiting, batching.batch, scope);
            if spans.is_empty() {
                break;
            }
            let count = spans.len() as u64;
            let sent = tokio::time::timeout(batching.export_limit, exporter.export(spans));
            match sent.await.unwrap_or(Err(OTelSdkError::Timeout(batching.export_limit))) {
                Ok(()) if reachable => {}
                Ok(()) => {
                    reachable = true;
                    tracing::info!("traces are exported again");
                }
                Err(error) => {
                    queue.lost(count);
                    if reachable {
                        reachable = false;
                        tracing::warn!(%error, "cannot export traces: spans are lost until this is repaired");
                    }
                }
            }
        }
        if closed {
            // It has nothing left; what it could fail with concerns nobody.
            let _ = exporter.shutdown();
            return;
        }
    }
}

/// The spans of as many whole requests as make a batch of at most `limit`, or of one request that has more.
fn batch(waiting: &mut VecDeque<Request>, limit: usize, scope: &InstrumentationScope) -> Vec<SpanData> {
    let left: usize = waiting.iter().map(Request::len).sum();
    let mut batch = Vec::with_capacity(left.min(limit));
    while let Some(next) = waiting.front()
        && (batch.is_empty() || batch.len() + next.len() <= limit)
        && let Some(request) = waiting.pop_front()
    {
        request.export(scope, &mut batch);
    }
    batch
}
