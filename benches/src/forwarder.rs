//! The yardstick: one extra loopback HTTP hop, made of hyper's server and hyper-util's pooled client and nothing else.
//!
//! It streams bodies both ways, changes nothing but the connection they travel on, and runs on one thread, the leanest
//! such a hop can be: a proxy that is compared with it gets no help from a wasteful yardstick.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket};

use crate::Result;
use crate::cli::ForwarderArgs;

/// Connections the kernel may keep for us before they are accepted: 2,000 streams are opened in the bench.
const BACKLOG: u32 = 4096;

type Hop = Client<HttpConnector, Incoming>;

/// Binds, prints one JSON line that tells the address, and forwards until it is stopped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn run(arguments: &ForwarderArgs) -> Result<()> {
    let listener = bind(arguments.listen)?;
    let ready = serde_json::json!({ "ready": format!("http://{}", listener.local_addr()?) });
    writeln!(std::io::stdout(), "{ready}")?;
    serve(listener, arguments.to).await
}

/// A listener on `address`.
///
/// # Errors
/// When the address is taken, or not ours.
pub fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(socket.listen(BACKLOG)?)
}

/// Forwards every request that comes to `listener` to `to`, for ever.
///
/// # Errors
/// Never in practice: a connection that fails ends alone.
pub async fn serve(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Hop = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(usize::MAX)
        .build(connector);
    let authority = to.to_string();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, authority) = (client.clone(), authority.clone());
        let service = service_fn(move |request| forward(client.clone(), authority.clone(), request));
        tokio::spawn(async move {
            // An error here is a client that hung up, which is its right.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn forward(
    client: Hop,
    authority: String,
    mut request: Request<Incoming>,
) -> std::result::Result<Response<Either<Incoming, Empty<Bytes>>>, Infallible> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build();
    let answer = match uri {
        Ok(uri) => {
            *request.uri_mut() = uri;
            client.request(request).await.ok()
        }
        Err(_) => None,
    };
    Ok(answer.map_or_else(
        || {
            let mut bad = Response::new(Either::Right(Empty::new()));
            *bad.status_mut() = StatusCode::BAD_GATEWAY;
            bad
        },
        |response| response.map(Either::Left),
    ))
}
