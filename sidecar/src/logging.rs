//! JSON lines on standard output, written without ever making a request wait.
//!
//! Lines are collected in memory and written by a thread of their own, so a reader that stalls costs lines, never
//! requests. What is dropped is counted and said.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// Most bytes of log that wait to be written: some thousand lines.
const MAX_WAITING: usize = 1024 * 1024;

/// A line waits no longer than this.
const FLUSH: Duration = Duration::from_millis(50);

/// The log, until the process ends. Dropping it writes what still waits.
#[derive(Debug)]
#[must_use = "what waits is written when it is dropped"]
pub struct Log {
    queue: Arc<Queue>,
    writer: Option<thread::JoinHandle<()>>,
    level: Level,
}

/// The level that is logged, which can be changed while the process runs.
#[derive(Debug, Clone)]
pub struct Level(reload::Handle<LevelFilter, Registry>);

impl Level {
    /// The level now.
    pub fn get(&self) -> LevelFilter {
        self.0.clone_current().unwrap_or(LevelFilter::OFF)
    }

    /// Changes it.
    ///
    /// # Errors
    /// The text is no level.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let level: LevelFilter = Some(level.trim())
            // An empty text would be taken for `error`.
            .filter(|level| !level.is_empty())
            .and_then(|level| level.parse().ok())
            .ok_or_else(|| format!("{level:?} is no level; give off, error, warn, info, debug or trace"))?;
        self.0.reload(level).map_err(|error| error.to_string())
    }
}

impl Log {
    /// A handle on the level.
    pub fn level(&self) -> Level {
        self.level.clone()
    }

    /// Lines dropped so far because nobody read standard output fast enough.
    pub fn dropped(&self) -> Dropped {
        Dropped(Arc::clone(&self.queue))
    }
}

/// Counts lines that were dropped.
#[derive(Debug, Clone)]
pub struct Dropped(Arc<Queue>);

impl Dropped {
    /// Since the start.
    pub fn count(&self) -> u64 {
        self.0.lock().dropped_in_all
    }
}

/// Starts logging to standard output.
///
/// # Errors
/// The writing thread cannot be started.
pub fn start(level: LevelFilter) -> io::Result<Log> {
    let queue = Arc::new(Queue::default());
    let to = Arc::clone(&queue);
    let writer =
        thread::Builder::new().name("log".to_owned()).spawn(move || to.write_all(&mut io::stdout()))?;
    let (filter, handle) = reload::Layer::new(level);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .with_writer(Lines(Arc::clone(&queue)))
        // The Kubernetes client tells of each failed try; the allowlist says once what is wrong and what to do.
        .with_filter(filter_fn(|metadata| !metadata.target().starts_with("kube_client")));
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(Log { queue, writer: Some(writer), level: Level(handle) })
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Not yet said.
    dropped: u64,
    dropped_in_all: u64,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > MAX_WAITING {
            waiting.dropped += 1;
            waiting.dropped_in_all += 1;
        } else {
            waiting.bytes.extend_from_slice(line);
        }
    }

    fn write_all(&self, out: &mut impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut waiting = self.lock();
            if !waiting.closed {
                // Sleeping in between keeps lines together: a wake-up each would cost more than the line.
                waiting = self.wake.wait_timeout(waiting, FLUSH).unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut batch, &mut waiting.bytes);
            let dropped = std::mem::take(&mut waiting.dropped);
            let closed = waiting.closed;
            drop(waiting);
            if dropped > 0 {
                let line = serde_json::json!({
                    "level": "WARN",
                    "fields": { "message": "log lines dropped: nobody reads standard output fast enough", "lines": dropped },
                });
                batch.extend_from_slice(line.to_string().as_bytes());
                batch.push(b'\n');
            }
            // Nobody is left to tell when standard output is gone.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            if closed {
                return;
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Lines(Arc<Queue>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_dropped_counted_and_said() {
        let queue = Queue::default();
        let line = vec![b'x'; MAX_WAITING / 2];
        for _ in 0..3 {
            queue.push(&line);
        }
        queue.lock().closed = true;
        let mut out = Vec::new();
        queue.write_all(&mut out);
        assert!(out[..MAX_WAITING].iter().all(|byte| *byte == b'x'));
        let said: serde_json::Value = serde_json::from_slice(&out[MAX_WAITING..]).unwrap();
        assert_eq!(said["fields"]["lines"], 1);
    }
}
