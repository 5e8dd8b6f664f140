//! One connection: one request, within a time limit that covers everything from the handshake to the last byte.
//!
//! Keeping connections open would save a scraper a handshake every some seconds, and let idle ones fill the port.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::routes;
use crate::source::Source;

/// How long a client may take for its request's head. A probe sends it at once.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may live: as long as scrapers wait by default.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes of a request that are buffered: the least that the HTTP library accepts, and plenty for our routes.
const REQUEST_BUFFER: usize = 8 * 1024;

/// What bytes come and go through.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A handshake under way.
pub type Accepting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Makes a connection secure before HTTP is spoken on it.
pub trait Acceptor: Send + Sync + 'static {
    /// The server's part of the handshake. It need not limit its time.
    fn accept(&self, stream: TcpStream) -> Accepting;
}

/// Serves one connection to its end.
pub(crate) async fn serve(stream: TcpStream, acceptor: Option<Arc<dyn Acceptor>>, source: Arc<dyn Source>) {
    let served = tokio::time::timeout(CONNECTION_LIMIT, async {
        let stream: Box<dyn Stream> = match acceptor {
            Some(acceptor) => acceptor.accept(stream).await?,
            None => Box::new(stream),
        };
        let service = service_fn(|request| routes::answer(&*source, request));
        http1::Builder::new()
            .keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(REQUEST_BUFFER)
            .serve_connection(TokioIo::new(stream), service)
            .await
            .map_err(io::Error::other)
    });
    match served.await {
        Ok(Ok(())) => {}
        // Scanners and impatient probes end here; nothing that an operator must know.
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection took too long"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::readiness::{Condition, Readiness};
    use crate::source::{Exposition, InFlight};

    /// Is never asked: no client here gets as far.
    struct Nobody;

    impl Source for Nobody {
        fn metrics(&self) -> Exposition {
            Exposition { content_type: "text/plain", text: String::new() }
        }

        fn readiness(&self) -> Readiness {
            let condition = Condition::NotRequired;
            Readiness { listening: true, draining: false, allowlist: condition.clone(), decoder: condition }
        }

        fn broken(&self) -> Option<String> {
            None
        }

        fn in_flight(&self, _: usize) -> InFlight {
            InFlight { total: 0, requests: Vec::new() }
        }

        fn log_level(&self) -> String {
            String::new()
        }

        fn set_log_level(&self, _: &str) -> Result<(), String> {
            Ok(())
        }
    }

    /// A handshake that never comes to an end.
    struct Silence;

    impl Acceptor for Silence {
        fn accept(&self, stream: TcpStream) -> Accepting {
            Box::pin(async move {
                let _stream = stream;
                std::future::pending().await
            })
        }
    }

    /// How long a client is suffered that says `opening` and nothing more. The clock is the runtime's, which jumps.
    async fn suffered(opening: &[u8], acceptor: Option<Arc<dyn Acceptor>>) -> Duration {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(opening).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let before = Instant::now();
        serve(stream, acceptor, Arc::new(Nobody)).await;
        before.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_head_is_let_go() {
        let took = suffered(b"GET /ready HTTP/1.1\r\nhost: loc", None).await;
        assert!(took >= HEAD_PATIENCE && took < CONNECTION_LIMIT, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_or_a_body_that_does_not_end_ends_with_the_connection() {
        let took = suffered(b"", Some(Arc::new(Silence))).await;
        assert!(took >= CONNECTION_LIMIT, "{took:?}");
        let opening = b"PUT /log-level HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\ndebug";
        let took = suffered(opening, None).await;
        assert!(took >= CONNECTION_LIMIT, "{took:?}");
    }
}
