//! Scripted engines that answer by what they are asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::common::{Received, Scripted, chunk, sse_head};

/// An engine whose answers are what `answer` makes of each request and its number, from 0.
pub(crate) async fn answering(
    answer: impl Fn(usize, &Received) -> Vec<u8> + Send + Sync + 'static,
) -> Scripted {
    let (answer, count) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
    Scripted::start(move |mut exchange| {
        let (answer, count) = (Arc::clone(&answer), Arc::clone(&count));
        async move {
            let said = answer(count.fetch_add(1, Relaxed), &exchange.request);
            exchange.write(said).await;
            Some(exchange)
        }
    })
    .await
}

/// One that never answers, and says with a request's number when its client has left.
pub(crate) async fn silent() -> (Scripted, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (left, leaves) = tokio::sync::mpsc::unbounded_channel();
    let engine = Scripted::start(move |mut exchange| {
        let left = left.clone();
        async move {
            exchange.left().await;
            left.send(()).ok();
            None
        }
    })
    .await;
    (engine, leaves)
}

/// A whole answer in events.
pub(crate) fn stream(frames: &[&str]) -> Vec<u8> {
    let frames: String = frames.iter().map(|frame| chunk(frame)).collect();
    [sse_head(), &frames, &chunk("")].concat().into_bytes()
}

/// The head of a JSON answer with more to come than does.
pub(crate) fn broken_json(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{body}")
        .into_bytes()
}
