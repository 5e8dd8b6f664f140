//! A collector that takes every span and keeps none: enough of gRPC (HTTP/2, an empty message, a status in the trailers)
//! for an exporter to be content, so that what is measured is the exporter.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::aside;
use crate::Result;

/// An empty message: no compression, no length.
const EMPTY: &[u8] = &[0; 5];

/// A running collector; its thread ends with the process.
#[derive(Debug)]
pub(super) struct Collector {
    /// Where it listens.
    pub(super) address: SocketAddr,
    taken: Arc<AtomicU64>,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When there is no port or no thread.
    pub(super) fn start() -> Result<Self> {
        let taken = Arc::new(AtomicU64::new(0));
        let counts = Arc::clone(&taken);
        let address = aside::listen("collector", move |stream| {
            let counts = Arc::clone(&counts);
            async move {
                let service = service_fn(move |request| take(Arc::clone(&counts), request));
                let connection = http2::Builder::new(TokioExecutor::new());
                // The exporter's end is no event here.
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            }
        })?;
        Ok(Self { address, taken })
    }

    /// Bytes of exported spans so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

async fn take(
    taken: Arc<AtomicU64>,
    request: Request<Incoming>,
) -> std::result::Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    taken.fetch_add(body.len() as u64, Ordering::Relaxed);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(EMPTY)).with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use hyper::client::conn::http2::handshake;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn an_export_is_taken_and_answered_as_grpc_wants_it() {
        let collector = Collector::start().unwrap();
        let stream = TcpStream::connect(collector.address).await.unwrap();
        let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
        let request = Request::post(format!("http://{}{path}", collector.address));
        let request = request.body(Full::new(Bytes::from_static(b"\0\0\0\0\x03abc"))).unwrap();
        let answer = client.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        let answer = answer.into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(answer.to_bytes(), EMPTY);
        assert_eq!(collector.taken(), 8);
    }
}
