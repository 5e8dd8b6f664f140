//! A collector double: takes OTLP over gRPC as a real one would, and tells the tests what came.

#![expect(dead_code, reason = "each test program uses its part of this")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kvferry_traces::Traces;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// Longest a test waits at shutdown for its spans. A test that passes never waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes before each gRPC message: compressed or not, and its length.
const GRPC_PREFIX: usize = 5;

/// A collector on the loopback interface.
pub(crate) struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    /// The collector ends with this.
    _stop: oneshot::Sender<()>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// A collector that speaks TLS, if it is given how.
    pub(crate) fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let received = Arc::<Mutex<Vec<_>>>::default();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (told, address) = std::sync::mpsc::channel();
        let into = Arc::clone(&received);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    let stream = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        _ = &mut stopped => return,
                    };
                    let into = Arc::clone(&into);
                    let service = service_fn(move |request| take(Arc::clone(&into), request));
                    let tls = tls.clone();
                    tokio::spawn(async move {
                        let http = http2::Builder::new(TokioExecutor::new());
                        let Some(tls) = tls else {
                            return http.serve_connection(TokioIo::new(stream), service).await;
                        };
                        match tls.accept(stream).await {
                            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                            // A client that does not trust us goes away in the middle of the handshake.
                            Err(_) => Ok(()),
                        }
                    });
                }
            });
        });
        Self { address: address.recv().unwrap(), received, _stop: stop }
    }

    /// Its port on the loopback interface.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its address as a variable would hold it.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Tracing into this collector, of which this share is sampled.
    pub(crate) fn traces(&self, ratio: &str) -> Traces {
        traces_to(&self.endpoint(), &[("OTEL_TRACES_SAMPLER_ARG", ratio)])
    }

    /// Flushes and returns all spans that came, by name. No name may come twice.
    pub(crate) fn spans(&self, traces: &Traces) -> BTreeMap<String, Span> {
        let mut by_name = BTreeMap::new();
        for span in self.all_spans(traces) {
            let name = span.name.clone();
            assert!(by_name.insert(name.clone(), span).is_none(), "two spans {name}");
        }
        by_name
    }

    /// Flushes and returns all spans that came.
    pub(crate) fn all_spans(&self, traces: &Traces) -> Vec<Span> {
        let scopes = self.requests(traces).into_iter().flat_map(|request| request.resource_spans);
        scopes.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
    }

    /// Flushes and returns all requests that came.
    pub(crate) fn requests(&self, traces: &Traces) -> Vec<ExportTraceServiceRequest> {
        traces.shutdown(PATIENCE).unwrap();
        self.received.lock().unwrap().clone()
    }
}

async fn take(
    into: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body[0], 0, "nobody asked for compression");
    into.lock().unwrap().push(ExportTraceServiceRequest::decode(&body[GRPC_PREFIX..]).unwrap());
    // An empty message, and the status that gRPC has after the body.
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(&[0; GRPC_PREFIX]));
    let body = body.with_trailers(async { Some(Ok::<_, Infallible>(trailers)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

/// Tracing to an OTLP endpoint, with further variables.
pub(crate) fn traces_to(endpoint: &str, variables: &[(&str, &str)]) -> Traces {
    Traces::from_env("1.2.3", |name| match name {
        "OTEL_TRACES_EXPORTER" => Some("otlp".to_owned()),
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.to_owned()),
        name => variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()),
    })
    .unwrap()
}

/// Headers with these names and values.
pub(crate) fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// The value of a header that is there once.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut values = headers.get_all(name).iter();
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(values.next(), None, "{name} more than once");
    value.to_str().unwrap()
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}

/// Attributes as text, by name.
pub(crate) fn attributes(list: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()).unwrap()
    {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        Value::DoubleValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    list.iter().map(|attribute| (attribute.key.as_str(), text(&attribute.value))).collect()
}
