//! An engine for the bench's own tests: it answers like the emulator with zero think time, counts what it was asked, and
//! can be told to answer wrongly.

#![expect(clippy::unwrap_used, reason = "test code, outside the functions that the lint knows as tests")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What it was asked so far.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Prefill requests.
    pub(crate) prefills: AtomicU64,
    /// Requests that carried what a prefill had handed over.
    pub(crate) handed_over: AtomicU64,
    /// All other requests.
    pub(crate) plain: AtomicU64,
    /// Answer every n-th request with status 500; 0 for never.
    pub(crate) fail_every: AtomicU64,
}

impl Asked {
    /// All requests.
    pub(crate) fn total(&self) -> u64 {
        [&self.prefills, &self.handed_over, &self.plain]
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .sum()
    }
}

/// Starts an engine on this runtime; it lives as long as the runtime.
pub(crate) async fn engine() -> (SocketAddr, Arc<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Asked::default());
    let counts = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let asked = Arc::clone(&counts);
            let service = service_fn(move |request| answer(Arc::clone(&asked), request));
            tokio::spawn(async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, asked)
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(asked: Arc<Asked>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    let header = |name| request.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
    let frames = header("x-emulator-frames").unwrap_or(1);
    let pace = Duration::from_micros(header("x-emulator-itl-us").unwrap_or(0));
    let body = request.into_body().collect().await?.to_bytes();
    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let prefill = value["kv_transfer_params"]["do_remote_decode"] == true;
    let count = match (prefill, value["kv_transfer_params"].is_object()) {
        (true, _) => &asked.prefills,
        (false, true) => &asked.handed_over,
        (false, false) => &asked.plain,
    };
    count.fetch_add(1, Ordering::SeqCst);
    let fail_every = asked.fail_every.load(Ordering::SeqCst);
    if fail_every > 0 && asked.total().is_multiple_of(fail_every) {
        let mut response = Response::new(Full::new(Bytes::from_static(b"{}")).boxed());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    if value["stream"] != true {
        let text = r#"{"id":"x","choices":[],"kv_transfer_params":{"do_remote_prefill":true}}"#;
        return Ok(Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed()));
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        for frame in 0..=frames {
            let text = if frame == frames {
                "data: [DONE]\n\n".to_owned()
            } else {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                format!("data: {{\"emitted_ns\":{},\"n\":{frame}}}\n\n", since.as_nanos())
            };
            if sender.send(Bytes::from(text)).await.is_err() {
                break;
            }
            if frame + 1 < frames {
                tokio::time::sleep(pace).await;
            }
        }
    });
    let body = Frames { receiver }.boxed();
    Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
}

struct Frames {
    receiver: tokio::sync::mpsc::Receiver<Bytes>,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver.poll_recv(context).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    }
}
