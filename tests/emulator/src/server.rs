//! The listeners and everything that outlives one connection: accept, restart, crash, stop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::config::Config;
use crate::engine::{Engine, Settings};
use crate::handoff::inbox;
use crate::http::conn::{self, Conn, Face};
use crate::http::io::{ConnControl, FaultStream};
use crate::http::seen::SeenRing;
use crate::listening::{Listening, Ports};
use crate::transfer::server::{self as kv, Door};

/// Pause after a failed accept (out of descriptors, most likely), so that the loop does not spin.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

/// What all connections of one emulator share.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) seen: SeenRing,
    engine: Mutex<Arc<Engine>>,
    open: Mutex<HashMap<u64, Open>>,
    next_conn: AtomicU64,
    stop: Notify,
}

struct Open {
    control: Arc<ConnControl>,
    task: AbortHandle,
}

impl Shared {
    /// A fresh emulator; its tasks run on the current runtime.
    pub(crate) fn new(config: Config, ports: Ports) -> Arc<Self> {
        let settings = Settings::new(config);
        let engine = Engine::new(Arc::clone(&settings), ports, Handle::current());
        Arc::new(Self {
            settings,
            seen: SeenRing::default(),
            engine: Mutex::new(engine),
            open: Mutex::default(),
            next_conn: AtomicU64::new(1),
            stop: Notify::new(),
        })
    }

    /// The engine of the current life.
    pub(crate) fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.engine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a new life: new id, empty memory, every connection reset but `spare`.
    pub(crate) fn restart(&self, spare: Option<u64>) {
        {
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let next = Engine::new(Arc::clone(&self.settings), engine.ports, engine.runtime.clone());
            // First of all, so that no goodbye of a request that the restart ends leaves the old life.
            engine.tasks.end();
            *engine = next;
        }
        self.reset_all(spare);
    }

    /// Ends as a killed process would: no goodbye on any connection.
    pub(crate) fn crash(&self) {
        if self.settings.config.crash_exits_process {
            std::process::exit(1);
        }
        self.reset_all(None);
        self.stop();
    }

    /// Ends [`serve`].
    pub(crate) fn stop(&self) {
        // A permit stays if nobody waits yet, so an early stop is not lost.
        self.stop.notify_one();
    }

    fn reset_all(&self, spare: Option<u64>) {
        self.open().retain(|id, conn| {
            let keep = Some(*id) == spare;
            if !keep {
                conn.control.reset_on_close();
                conn.task.abort();
            }
            keep
        });
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection's task where a restart can find it.
    fn track<W>(self: &Arc<Self>, work: impl FnOnce(u64, Arc<ConnControl>) -> W)
    where
        W: Future<Output = ()> + Send + 'static,
    {
        let id = self.next_conn.fetch_add(1, Relaxed);
        let control = Arc::new(ConnControl::default());
        let work = work(id, Arc::clone(&control));
        let shared = Arc::clone(self);
        // Locked until the entry is in, so that a short connection cannot remove itself before that.
        let mut open = self.open();
        let task = tokio::spawn(async move {
            work.await;
            shared.open().remove(&id);
        });
        open.insert(id, Open { control, task: task.abort_handle() });
    }
}

/// Accepts on every port until stopped or crashed.
pub(crate) async fn serve(shared: Arc<Shared>, listening: Listening) {
    let Listening { http, kv, bootstrap, p2p, notify } = listening;
    tokio::select! {
        () = accept(&http, |socket| http_conn(&shared, socket, Face::Engine)) => {}
        () = accept(&bootstrap, |socket| http_conn(&shared, socket, Face::Bootstrap)) => {}
        () = accept(&kv, |socket| kv_conn(&shared, socket, Door::Kv)) => {}
        () = accept(&p2p, |socket| kv_conn(&shared, socket, Door::P2p)) => {}
        () = accept(&notify, |socket| notify_conn(&shared, socket)) => {}
        () = shared.stop.notified() => {}
    }
}

fn http_conn(shared: &Arc<Shared>, socket: TcpStream, face: Face) {
    shared.track(|id, control| conn::serve(Arc::clone(shared), socket, Conn { id, control, face }));
}

fn kv_conn(shared: &Arc<Shared>, socket: TcpStream, door: Door) {
    let _ = socket.set_nodelay(true);
    let engine = shared.engine();
    shared.track(|_, control| async move {
        // The reader's departure and its refusal both show on its own side.
        let _ = kv::serve(engine, door, FaultStream::new(socket, control)).await;
    });
}

fn notify_conn(shared: &Arc<Shared>, socket: TcpStream) {
    let _ = socket.set_nodelay(true);
    let engine = shared.engine();
    shared.track(|_, control| async move {
        let _ = inbox::serve(engine, FaultStream::new(socket, control)).await;
    });
}

async fn accept(listener: &TcpListener, mut serve: impl FnMut(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => serve(socket),
            Err(_) => sleep(ACCEPT_BACKOFF).await,
        }
    }
}
