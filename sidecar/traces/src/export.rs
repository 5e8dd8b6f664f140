//! The thread that exports: it collects what waits, sends it, and says once when the collector goes away or comes back.
//!
//! It has a runtime of its own, so neither a slow collector nor the encoding of spans takes time from requests.

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::runtime::{self, Runtime};

use crate::config::Batching;
use crate::queue::Queue;

/// The near end: what spans go into when they end.
#[derive(Debug)]
pub(crate) struct Processor {
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
) -> io::Result<Processor> {
    let (ended, done) = mpsc::channel();
    let from = Arc::clone(&queue);
    thread::Builder::new().name("traces".to_owned()).spawn(move || {
        let _ended: mpsc::Sender<()> = ended;
        runtime.block_on(export(&exporter, &from, batching));
    })?;
    Ok(Processor { queue, done: Mutex::new(done) })
}

impl SpanProcessor for Processor {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.queue.push(span);
    }

    /// Nobody flushes in between: the thread does, by its own clock.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.queue.close();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match done.recv_timeout(limit) {
            Err(mpsc::RecvTimeoutError::Timeout) => Err(OTelSdkError::Timeout(limit)),
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => Ok(()),
        }
    }
}

async fn export<E: SpanExporter>(exporter: &E, queue: &Queue, batching: Batching) {
    let mut reachable = true;
    loop {
        tokio::select! {
            () = queue.woken() => {}
            () = tokio::time::sleep(batching.delay) => {}
        }
        let (mut spans, closed) = queue.take();
        while !spans.is_empty() {
            let rest = spans.split_off(spans.len().min(batching.batch));
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
            spans = rest;
        }
        if closed {
            // It has nothing left; what it could fail with concerns nobody.
            let _ = exporter.shutdown();
            return;
        }
    }
}
