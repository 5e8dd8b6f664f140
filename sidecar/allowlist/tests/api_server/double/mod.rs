//! A stand-in for the Kubernetes API server on 127.0.0.1: listings in pages, watches as chunked streams that go on
//! from a resource version, and every way of failing that a real one has, at the test's command.

mod cluster;
mod http;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use cluster::{Cluster, Shared};
use http::serve;

pub const PODS: &str = "/api/v1/namespaces/llm/pods";
pub const POOLS: &str = "/apis/inference.networking.k8s.io/v1/namespaces/llm/inferencepools";
pub const ALPHA_POOLS: &str = "/apis/inference.networking.x-k8s.io/v1alpha2/namespaces/llm/inferencepools";

/// The API server. It stops when it is dropped.
pub struct ApiServer {
    address: SocketAddr,
    /// Never listens; keeps the port from being given to another while ours is closed.
    _reserved: TcpSocket,
    shared: Arc<Shared>,
    serving: Option<JoinHandle<()>>,
    tls: Option<TlsAcceptor>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    List,
    Watch,
}

/// How open watches end.
#[derive(Clone, Copy)]
pub enum Ending {
    /// As at the end of their time.
    Clean,
    /// In the middle of an event, as with a broken connection.
    Cut,
}

impl ApiServer {
    /// A server that knows pods and the stable pools, and nothing else.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    pub fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let mut server = Self::stopped(tls);
        server.up();
        server
    }

    /// A server whose address is known and whose port is closed.
    pub fn stopped(tls: Option<TlsAcceptor>) -> Self {
        let reserved = socket("127.0.0.1:0".parse().unwrap());
        let address = reserved.local_addr().unwrap();
        let cluster = Cluster { version: 1, served: [PODS, POOLS].into(), ..Cluster::default() };
        let shared = Shared { cluster: Mutex::new(cluster), tick: watch::Sender::new(0) };
        Self { address, _reserved: reserved, shared: Arc::new(shared), serving: None, tls }
    }

    /// Opens the port.
    pub fn up(&mut self) {
        let listener = socket(self.address).listen(64).unwrap();
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        self.serving = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, &shared).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => serve(stream, &shared).await,
                            Err(_) => None,
                        },
                    };
                });
            }
        }));
    }

    /// Closes the port and every connection.
    pub async fn down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    pub fn uri(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves one more collection.
    pub fn serve(&self, collection: &'static str) {
        self.shared.change(|cluster| _ = cluster.served.insert(collection));
    }

    /// Creates or replaces an object.
    pub fn apply(&self, collection: &'static str, object: &Value) {
        self.shared.change(|cluster| {
            cluster.set(collection, object["metadata"]["name"].as_str().unwrap(), Some(object));
        });
    }

    pub fn delete(&self, collection: &'static str, name: &str) {
        self.shared.change(|cluster| cluster.set(collection, name, None));
    }

    /// Answers a call with this status until [`ApiServer::grant`].
    pub fn refuse(&self, collection: &'static str, verb: Verb, status: u16) {
        self.shared.change(|cluster| _ = cluster.refused.insert((collection, verb), status));
    }

    pub fn grant(&self, collection: &'static str, verb: Verb) {
        self.shared.change(|cluster| _ = cluster.refused.remove(&(collection, verb)));
    }

    /// Lets listings wait until [`ApiServer::release`].
    pub fn hold(&self, collection: &'static str) {
        self.shared.change(|cluster| _ = cluster.held.insert(collection));
    }

    pub fn release(&self, collection: &'static str) {
        self.shared.change(|cluster| _ = cluster.held.remove(collection));
    }

    /// At most so many objects a page, whatever the client asks for.
    pub fn page(&self, objects: usize) {
        self.shared.change(|cluster| cluster.page = Some(objects));
    }

    /// Lets the next continue tokens be too old.
    pub fn lose_pages(&self, pages: usize) {
        self.shared.change(|cluster| cluster.lost_pages = pages);
    }

    /// Answers every listing with this text, or honestly again.
    pub fn false_list(&self, body: Option<&str>) {
        self.shared.change(|cluster| cluster.false_list = body.map(str::to_owned));
    }

    /// Sends a line on every open watch of a collection, as it is.
    pub fn inject(&self, collection: &'static str, line: &str) {
        self.shared.change(|cluster| cluster.lines.push((collection, line.to_owned())));
    }

    /// Tells open watches how far they are, while nothing happens.
    pub fn bookmark(&self, collection: &'static str) {
        let version = self.shared.cluster().version.to_string();
        let object =
            json!({"kind": "Pod", "metadata": {"resourceVersion": version, "creationTimestamp": null}});
        self.inject(collection, &json!({"type": "BOOKMARK", "object": object}).to_string());
    }

    /// Ends every open watch.
    pub fn end_watches(&self, ending: Ending) {
        self.shared.change(|cluster| {
            cluster.endings += 1;
            cluster.ending = Some(ending);
        });
    }

    /// Forgets all history, and pages of listings that were begun.
    pub fn forget(&self) {
        self.shared.change(|cluster| {
            // One more change, so that every version handed out is too old.
            cluster.version += 1;
            cluster.oldest = cluster.version;
            cluster.history.clear();
            cluster.rests.clear();
        });
    }

    /// How many calls were answered or are held.
    pub fn count(&self, collection: &'static str, verb: Verb) -> usize {
        self.shared.cluster().counts.get(&(collection, verb)).copied().unwrap_or(0)
    }

    /// Whether the last watch of a collection was asked for from the present version: its reader has all that was sent.
    pub fn is_read(&self, collection: &'static str) -> bool {
        let cluster = self.shared.cluster();
        cluster.watched_from.get(collection) == Some(&cluster.version)
    }

    /// How many watches are open.
    pub fn open_watches(&self) -> usize {
        self.shared.cluster().open
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// A socket bound to an address that others of ours are bound to as well.
fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}
