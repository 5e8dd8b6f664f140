//! One HTTP/1.1 connection from accept to close.

use std::fmt;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::io::{ConnControl, FaultStream};
use super::route;
use crate::server::Shared;

/// Most header lines in a request. Above any gateway's habits; hyper's own default of 100 is not.
const MAX_HEADERS: usize = 512;

/// The connection must end without an answer.
#[derive(Debug)]
pub(crate) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the connection was ended on purpose or by the client")
    }
}

impl std::error::Error for Gone {}

/// Which of its HTTP servers an emulator shows on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// The engine's API.
    Engine,
    /// The bootstrap server beside it.
    Bootstrap,
}

/// Which connection a request came on.
pub(crate) struct Conn {
    pub(crate) id: u64,
    pub(crate) control: Arc<ConnControl>,
    pub(crate) face: Face,
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(shared: Arc<Shared>, socket: TcpStream, conn: Conn) {
    // Without it, small frames of a stream would wait for each other.
    let _ = socket.set_nodelay(true);
    let stream = FaultStream::new(socket, Arc::clone(&conn.control));
    let conn = Arc::new(conn);
    let service = service_fn(move |request| route::handle(Arc::clone(&shared), Arc::clone(&conn), request));
    // An error here is the client's departure or a fault that was asked for; both show elsewhere.
    let _ = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}
