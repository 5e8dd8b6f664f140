//! Work that an engine does beside its requests, and that ends with the engine's life: a restarted engine must
//! not go on delivering what the life before had computed.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The background work of one engine life; `None` once the life ended.
pub(crate) struct Tasks {
    runtime: Handle,
    running: Mutex<Option<JoinSet<()>>>,
}

impl Tasks {
    /// No work yet; it will run on `runtime`.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, running: Mutex::new(Some(JoinSet::new())) }
    }

    /// Starts some work, unless the life has ended.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut() {
            // What has ended leaves its place.
            while running.try_join_next().is_some() {}
            running.spawn_on(work, &self.runtime);
        }
    }

    /// Ends the life: all work stops where it is, and none begins.
    pub(crate) fn end(&self) {
        // Dropped outside the lock, since the work's own drops may want to start some.
        let ended = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(ended);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_ends_with_the_life_and_none_begins_after() {
        let tasks = Tasks::new(Handle::current());
        let (held, ended) = oneshot::channel::<()>();
        tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        tokio::task::yield_now().await;
        tasks.end();
        assert!(ended.await.is_err());
        let (held, ended) = oneshot::channel::<()>();
        tasks.spawn(async move {
            let _ = held.send(());
        });
        assert!(ended.await.is_err());
    }
}
