//! One exchange with an engine, on a kept connection if there is one.
//!
//! A request is sent again in one case only: a *kept* connection turned out to be dead at once, before any answer. Almost
//! always the engine had closed it as idle and never saw the request; but nobody can tell that from an engine that died over
//! it. So it is repeated only if that does no harm (RFC 9110, section 9.2.2): not a byte of it had left, or its method is
//! idempotent, or it asks for an answer of one of the APIs that are intercepted. Those are POST, and still compute text
//! and change nothing that a client could see, so the two outcomes look the same. Any other POST might load an adapter
//! or put an engine to sleep, and is its sender's to repeat. All else that fails is the caller's to decide.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kvferry_contract::Endpoint;
use kvferry_handoff::Leg;
use kvferry_tls::LegTls;
use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::dial;
use super::proxy::Proxy;
use super::tally::Mark;
use super::{Lease, LegBody, Pool, Proxies, Tally};
use crate::error::{Broken, Error};

/// A dead kept connection shows itself within a round trip; later than this the engine may well have been at work.
const STALE_WINDOW: Duration = Duration::from_secs(1);

/// Largest response head accepted from an engine, in bytes. Like the limit for clients.
const MAX_HEAD: usize = 1024 * 1024;

/// A response whose body is still to be read, and the connection it comes over.
#[derive(Debug)]
pub struct Sent {
    /// Head, and body to come.
    pub response: Response<Incoming>,
    /// To be recycled after the body's end.
    pub lease: Lease,
}

impl Sent {
    /// The error for a body that broke while it was read.
    pub fn broke(&self, leg: Leg, error: &hyper::Error) -> Error {
        Error::LegBroken { leg, target: self.lease.endpoint.to_string(), how: broken(error) }
    }
}

/// A worker's way to the engines of one kind.
#[derive(Debug, Clone)]
pub struct Upstream {
    pool: Arc<Pool>,
    tally: Tally,
    connect_timeout: Duration,
    /// `None`: plain HTTP.
    tls: Option<LegTls>,
    /// Between us and engines outside this pod.
    proxies: Option<Proxies>,
}

impl Upstream {
    /// Keeps at most `max_idle` connections to each engine; a new one must open within `connect_timeout`.
    pub fn new(max_idle: usize, connect_timeout: Duration, tls: Option<LegTls>, tally: Tally) -> Self {
        let pool = Arc::new(Pool::new(max_idle, tally.clone()));
        Self { pool, tally, connect_timeout, tls, proxies: None }
    }

    /// Goes through these proxies.
    #[must_use]
    pub fn through(mut self, proxies: Option<Proxies>) -> Self {
        self.proxies = proxies;
        self
    }

    /// Its kept connections.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Sends a request that can be made again, and may be.
    ///
    /// # Errors
    /// How the exchange broke before the response head was there.
    pub async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        request: impl Fn() -> Request<LegBody>,
    ) -> Result<Sent, Broken> {
        if let Some(sender) = self.pool.take(endpoint) {
            let sent_at = Instant::now();
            match self.exchange(endpoint, sender, request()).await {
                Err(failure) if failure.stale && sent_at.elapsed() < STALE_WINDOW => {}
                result => return result.map_err(|failure| failure.broken),
            }
        }
        let sender = self.open(endpoint).await?;
        self.exchange(endpoint, sender, request()).await.map_err(|failure| failure.broken)
    }

    /// Sends a request that exists once, its body being the client's own stream, or that must not be repeated. It is tried
    /// again only if not a byte of it had been sent.
    ///
    /// # Errors
    /// How the exchange broke before the response head was there.
    pub async fn send_once(
        &self,
        endpoint: &Arc<Endpoint>,
        mut request: Request<LegBody>,
    ) -> Result<Sent, Broken> {
        if let Some(sender) = self.pool.take(endpoint) {
            match self.exchange(endpoint, sender, request).await {
                Err(Failure { unsent: Some(same), .. }) => request = *same,
                result => return result.map_err(|failure| failure.broken),
            }
        }
        let sender = self.open(endpoint).await?;
        self.exchange(endpoint, sender, request).await.map_err(|failure| failure.broken)
    }

    async fn open(&self, endpoint: &Endpoint) -> Result<http1::SendRequest<LegBody>, Broken> {
        let stream = match self.proxy(endpoint) {
            None => dial(endpoint, self.connect_timeout).await?,
            Some(proxy) => {
                let stream = dial(&proxy.endpoint, self.connect_timeout).await?;
                if self.tls.is_some() { proxy.tunnel(stream, endpoint).await? } else { stream }
            }
        };
        match &self.tls {
            None => speak(stream, self.tally.open()).await,
            Some(tls) => match tls.connect(endpoint.host(), stream).await {
                Ok(stream) => speak(stream, self.tally.open()).await,
                Err(error) => Err(Broken::Tls(error.to_string())),
            },
        }
    }

    fn proxy(&self, endpoint: &Endpoint) -> Option<Proxy> {
        self.proxies.as_ref()?.to(endpoint, self.tls.is_some())
    }

    async fn exchange(
        &self,
        endpoint: &Arc<Endpoint>,
        mut sender: http1::SendRequest<LegBody>,
        mut request: Request<LegBody>,
    ) -> Result<Sent, Failure> {
        if self.tls.is_none()
            && let Some(proxy) = self.proxy(endpoint)
        {
            proxy.address(&mut request, endpoint);
        }
        match sender.try_send_request(request).await {
            Ok(response) => {
                let lease = Lease { sender, endpoint: Arc::clone(endpoint), pool: Arc::clone(&self.pool) };
                Ok(Sent { response, lease })
            }
            Err(mut error) => {
                let unsent = error.take_message().map(Box::new);
                let error = error.into_error();
                Err(Failure {
                    stale: unsent.is_some() || closed_early(&error),
                    unsent,
                    broken: broken(&error),
                })
            }
        }
    }
}

/// Begins HTTP/1.1 on a new connection, which is counted until it ends.
async fn speak<S>(stream: S, open: Mark) -> Result<http1::SendRequest<LegBody>, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Broken::Other(error.to_string()))?;
    // Its errors reach whoever waits for the response or reads the body. Not an async block: that would keep room for the
    // connection twice, and there is a task for each stream.
    tokio::spawn(connection.with_upgrades().map(move |_| drop(open)));
    Ok(sender)
}

struct Failure {
    broken: Broken,
    /// The connection was closed before any of the answer came.
    stale: bool,
    /// The request, if nothing of it was sent.
    unsent: Option<Box<Request<LegBody>>>,
}

fn closed_early(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_canceled() || error.is_closed() || was_reset(error)
}

fn was_reset(error: &hyper::Error) -> bool {
    let kind = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    matches!(
        kind,
        Some(
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::NotConnected
                // TLS that ended without a word: who was killed says none.
                | io::ErrorKind::UnexpectedEof
        )
    )
}

/// What an error of the HTTP client says about the upstream.
pub(crate) fn broken(error: &hyper::Error) -> Broken {
    // With TLS 1.3 a peer that does not want our certificate says so only now.
    let refusal = error.source().and_then(|source| source.downcast_ref()).and_then(kvferry_tls::late_refusal);
    if let Some(refusal) = refusal {
        return Broken::Tls(refusal.to_string());
    }
    if error.is_parse() || error.is_parse_too_large() {
        Broken::NotHttp(error.to_string())
    } else if closed_early(error) {
        Broken::Closed
    } else {
        Broken::Other(error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}")))
    }
}
