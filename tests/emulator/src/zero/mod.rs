//! An engine with zero think time: the cheapest answers that still look right, for measuring a proxy.
//!
//! It keeps no KV and parses no JSON; what it costs must stay small beside what is measured. One thread accepts
//! and hands connections to the workers in turn, so that a few connections still spread evenly.

mod answer;
mod body;
mod scan;
mod shape;

use std::io;
use std::net::SocketAddr;
use std::thread;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use answer::Canned;

/// A zero-think engine: where it listens and how many threads serve.
#[derive(Clone, Debug)]
pub struct ZeroConfig {
    /// Address to listen on.
    pub host: String,
    /// Port; 0 picks a free one.
    pub port: u16,
    /// Serving threads, at least 1.
    pub workers: usize,
    /// Model name in the answers.
    pub model: String,
    /// Value of `x-emulator-role`.
    pub role: crate::Role,
}

/// A running zero-think engine. Its threads end with the process.
pub struct Zero {
    addr: SocketAddr,
}

impl Zero {
    /// Binds and serves.
    ///
    /// # Errors
    /// When the address cannot be bound or a thread cannot be started.
    pub fn start(config: &ZeroConfig) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((config.host.as_str(), config.port))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let canned = Canned::new(&config.model, config.role);
        let workers = (0..config.workers.max(1))
            .map(|_| worker(canned.clone()))
            .collect::<io::Result<Vec<UnboundedSender<std::net::TcpStream>>>>()?;
        spawn("zero-accept", move || async move { accept(listener, &workers).await })?;
        Ok(Self { addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A thread with a single-threaded runtime that runs `work` to its end.
fn spawn<W: Future<Output = ()>>(name: &str, work: impl FnOnce() -> W + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(work())).map(drop)
}

fn worker(canned: Canned) -> io::Result<UnboundedSender<std::net::TcpStream>> {
    // Unbounded: what waits in it is bounded by the process's open files, and the accepting thread never does
    // anything slower than the workers.
    let (sender, receiver) = unbounded_channel();
    spawn("zero-worker", move || serve(receiver, canned))?;
    Ok(sender)
}

async fn accept(listener: std::net::TcpListener, workers: &[UnboundedSender<std::net::TcpStream>]) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    for worker in workers.iter().cycle() {
        // A failed accept (out of descriptors) must not end the engine; the pause keeps it from spinning.
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(crate::server::ACCEPT_BACKOFF).await;
            continue;
        };
        if let Ok(socket) = socket.into_std() {
            let _ = worker.send(socket);
        }
    }
}

async fn serve(mut sockets: UnboundedReceiver<std::net::TcpStream>, canned: Canned) {
    while let Some(socket) = sockets.recv().await {
        let canned = canned.clone();
        tokio::spawn(async move {
            let Ok(socket) = TcpStream::from_std(socket) else {
                return;
            };
            let _ = socket.set_nodelay(true);
            let service = service_fn(|request| answer::answer(&canned, request));
            // The client's departure is no event here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
