//! The port and its thread.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use crate::connection::{self, Acceptor};
use crate::listen::listen;
use crate::source::Source;

/// Most connections at a time. A scraper and a probe are two; the rest is for people, and for those who hang.
const MAX_CONNECTIONS: usize = 64;

/// Pause after a failed accept, mostly for want of file descriptors: trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long answers under way may still take when the port closes: they are short.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The open port. It closes when this is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Admin {
    /// Serves `source` on `address` (port 0: any free one), each connection through `acceptor` if there is one.
    ///
    /// # Errors
    /// The address cannot be had, or the thread or its runtime cannot be made.
    pub fn start(
        address: SocketAddr,
        source: Arc<dyn Source>,
        acceptor: Option<Arc<dyn Acceptor>>,
    ) -> io::Result<Self> {
        let listener = listen(address)?;
        let address = listener.local_addr()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, source, acceptor, stopped));
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and waits, half a second at most, for answers under way.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked, which its panic has said already; there is nothing left to close.
            let _ = thread.join();
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.end();
    }
}

/// Serves until `stopped`'s sender is gone.
async fn serve(
    listener: TcpListener,
    source: Arc<dyn Source>,
    acceptor: Option<Arc<dyn Acceptor>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut tasks = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            _ = &mut stopped => break,
        };
        while tasks.try_join_next().is_some() {}
        oldest_first.retain(|connection| !connection.is_finished());
        if oldest_first.len() == MAX_CONNECTIONS
            && let Some(oldest) = oldest_first.pop_front()
        {
            // Who has been here longest for what takes milliseconds is the one that hangs.
            oldest.abort();
        }
        let connection = connection::serve(stream, acceptor.clone(), Arc::clone(&source));
        oldest_first.push_back(tasks.spawn(connection));
    }
    drop(listener);
    let answered = async { while tasks.join_next().await.is_some() {} };
    // Whoever is left is cut off with the runtime.
    let _ = tokio::time::timeout(LAST_ANSWERS, answered).await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection on the admin port");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
