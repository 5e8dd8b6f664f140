//! The process's shape: one thread that accepts, a few worker threads that each serve their share of the connections
//! with a runtime and an engine pool of their own, and the way all of it stops.
//!
//! Nothing on a request's way crosses threads, so nothing waits for another core to wake up. A connection goes to the
//! worker that has the fewest.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvferry_handoff::Ledger;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::downstream::{self, Watchdog};
use crate::inflight::Table;
use crate::vitals::Vitals;
use crate::worker::{Rank, Settings, Worker};

/// Connections that wait in the kernel to be accepted. A gateway that fails over may bring thousands at once.
const BACKLOG: i32 = 4096;

/// Accepted connections that wait for their worker: only a worker that is busy for long lets any wait at all.
const HANDED_OVER: usize = 1024;

/// Pause after a failed accept, mostly for want of file descriptors: trying at once would only burn the core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// A running sidecar.
#[derive(Debug)]
pub struct Server {
    start: Instant,
    address: SocketAddr,
    ledger: Ledger,
    tables: Vec<Table>,
    drain: CancellationToken,
    abort: CancellationToken,
    threads: Vec<thread::JoinHandle<()>>,
    vitals: Vitals,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Listens on every rank's port, on all interfaces (0: any free port), and serves with `workers` threads.
    ///
    /// # Errors
    /// A port cannot be had, and which, or a thread or runtime cannot be made.
    pub fn start(settings: &Settings, workers: usize) -> io::Result<Self> {
        let start = Instant::now();
        let mut listeners = Vec::new();
        for rank in &settings.ranks {
            let listener = listen(rank.port)
                .map_err(|error| io::Error::new(error.kind(), format!("port {}: {error}", rank.port)))?;
            listeners.push((listener, Arc::clone(rank)));
        }
        let (first, _) = listeners.first().expect("there is at least one rank");
        let address = first.local_addr()?;
        let (drain, abort) = (CancellationToken::new(), CancellationToken::new());
        let ledger = Ledger::new();
        let connections = Arc::new(AtomicUsize::new(0));
        let vitals = Vitals::default();
        let mut threads = Vec::new();
        let mut shares = Vec::new();
        let mut tables = Vec::new();
        for index in 0..workers.max(1) {
            let (sender, receiver) = mpsc::channel(HANDED_OVER);
            let table = Table::default();
            tables.push(table.clone());
            let load = Arc::new(AtomicUsize::new(0));
            shares.push(Share { sender, load: Arc::clone(&load) });
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let part = Part {
                settings: settings.clone(),
                start,
                table: table.clone(),
                ledger: ledger.clone(),
                receiver,
                load,
                total: Arc::clone(&connections),
                drain: drain.clone(),
                abort: abort.clone(),
            };
            let name = format!("worker-{index}");
            let (vitals, stop, thread) =
                (vitals.clone(), drain.clone(), thread::Builder::new().name(name.clone()));
            threads.push(thread.spawn(move || {
                vitals.watch(&name, || !stop.is_cancelled(), || runtime.block_on(part.serve()));
            })?);
        }
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (watching, stop, thread) =
            (vitals.clone(), drain.clone(), thread::Builder::new().name("accept".to_owned()));
        threads.push(thread.spawn(move || {
            let accepting = async {
                let accepting = listeners.into_iter().map(|(listener, rank)| accept(listener, rank, &shares));
                tokio::select! {
                    _ = futures_util::future::join_all(accepting) => {}
                    () = stop.cancelled() => {}
                }
            };
            watching.watch("accept", || !stop.is_cancelled(), || runtime.block_on(accepting));
        })?);
        Ok(Self { start, address, ledger, tables, drain, abort, threads, vitals, connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When it started.
    pub fn start_time(&self) -> Instant {
        self.start
    }

    /// The account of KV handles.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What became of its threads.
    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Client connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The same, to be read while the server runs and after.
    pub fn connection_count(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.connections)
    }

    /// Requests in flight, a table for each worker.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Stops accepting, lets what runs finish for at most `patience`, then cuts what is left and gives its KV back.
    /// Blocks until all threads have ended.
    pub fn stop(self, patience: Duration) {
        self.drain.cancel();
        let abort = self.abort.clone();
        let (finished, wait) = std::sync::mpsc::channel::<()>();
        let timer = thread::spawn(move || {
            // Either everything ended, and the channel with it, or patience did.
            if wait.recv_timeout(patience) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                abort.cancel();
            }
        });
        for thread in self.threads {
            // A worker that panicked has said so; the others still deserve to end well.
            let _ = thread.join();
        }
        drop(finished);
        let _ = timer.join();
    }
}

/// A connection on its way to its worker.
struct Accepted {
    stream: std::net::TcpStream,
    client: SocketAddr,
    rank: Arc<Rank>,
}

/// A worker as the acceptor sees it.
struct Share {
    sender: mpsc::Sender<Accepted>,
    load: Arc<AtomicUsize>,
}

async fn accept(listener: std::net::TcpListener, rank: Arc<Rank>, shares: &[Share]) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot accept connections");
            return;
        }
    };
    loop {
        let (stream, client) = match listener.accept().await.and_then(|(stream, client)| {
            stream.set_nodelay(true)?;
            Ok((stream.into_std()?, client))
        }) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; if file descriptors are short, raise the limit");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A worker that is gone is told of by the process's vitals; until somebody restarts it, the others serve.
        let there = shares.iter().filter(|share| !share.sender.is_closed());
        let Some(share) = there.min_by_key(|share| share.load.load(Ordering::Relaxed)) else { return };
        share.load.fetch_add(1, Ordering::Relaxed);
        let accepted = Accepted { stream, client, rank: Arc::clone(&rank) };
        // It fails if the worker goes in this moment, and the connection with it.
        let _ = share.sender.send(accepted).await;
    }
}

/// One worker thread.
struct Part {
    settings: Settings,
    ledger: Ledger,
    start: Instant,
    table: Table,
    receiver: mpsc::Receiver<Accepted>,
    load: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Part {
    async fn serve(mut self) {
        // Releases go on after the last connection: so long at most.
        let last_wishes = self.settings.limits.longest_release();
        let worker = Arc::new(Worker::new(
            self.settings.clone(),
            self.ledger.clone(),
            self.table.clone(),
            self.start,
            self.drain.clone(),
        ));
        let dog = Arc::new(Watchdog::default());
        let warming = worker.settings.warm_up.clone().map(|warm_up| {
            // Not among what is waited for at the end: it ends with the runtime, and what it runs gives its KV back.
            tokio::spawn(warm_up.work(Arc::clone(&worker)))
        });
        let tracker = TaskTracker::new();
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                accepted = self.receiver.recv() => {
                    let Some(accepted) = accepted else { break };
                    self.take(&worker, &dog, &tracker, accepted);
                }
                _ = sweep.tick() => {
                    dog.sweep();
                    worker.legs.all().iter().for_each(|upstream| upstream.pool().sweep());
                }
                () = self.drain.cancelled() => break,
            }
        }
        // Accepted, but not yet taken over: they are clients too.
        while let Ok(accepted) = self.receiver.try_recv() {
            self.take(&worker, &dog, &tracker, accepted);
        }
        if let Some(warming) = warming {
            warming.abort();
        }
        tracker.close();
        tracker.wait().await;
        worker.background.close();
        let ended = async {
            tokio::select! {
                () = worker.background.wait() => true,
                () = async { self.abort.cancelled().await; tokio::time::sleep(last_wishes).await } => false,
            }
        };
        if !ended.await {
            tracing::warn!("stopped with work left in the background");
        }
    }

    fn take(&self, worker: &Arc<Worker>, dog: &Arc<Watchdog>, tracker: &TaskTracker, accepted: Accepted) {
        let Accepted { stream, client, rank } = accepted;
        let load = Counted::new(&self.load, &self.total);
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot serve a connection");
                return;
            }
        };
        let (worker, dog) = (Arc::clone(worker), Arc::clone(dog));
        let (drain, abort) = (self.drain.clone(), self.abort.clone());
        tracker.spawn(async move {
            let _load = load;
            downstream::serve(worker, rank, dog, stream, client, drain, abort).await;
        });
    }
}

/// Counts a connection until dropped. Its worker's load was counted when it was handed over.
struct Counted {
    load: Arc<AtomicUsize>,
    total: Arc<AtomicUsize>,
}

impl Counted {
    fn new(load: &Arc<AtomicUsize>, total: &Arc<AtomicUsize>) -> Self {
        total.fetch_add(1, Ordering::Relaxed);
        Self { load: Arc::clone(load), total: Arc::clone(total) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All interfaces, both families; IPv4 alone where the host has no IPv6.
fn listen(port: u16) -> io::Result<std::net::TcpListener> {
    let both = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_only_v6(false)?;
        bind(&socket, (Ipv6Addr::UNSPECIFIED, port).into())?;
        Ok(socket)
    };
    let only_v4 = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        bind(&socket, (Ipv4Addr::UNSPECIFIED, port).into())?;
        Ok(socket)
    };
    let socket = match both() {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => only_v4()?,
        result => result?,
    };
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    // A restarted sidecar must not wait for its predecessor's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}
