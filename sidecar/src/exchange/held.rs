//! An engine's answer of which the beginning was read already: what was held comes first, then the rest as it arrives.
//!
//! The race guarded here: an engine that dies right behind its answer's head. Head and end then lie in one read, the HTTP
//! library meets the body's error before it has written the head, and drops both: the client's connection closes without
//! a word. So whoever answers with an engine's body has a look at it before ([`Held::look`]): as long as nothing was
//! sent, a broken answer can still become an error.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// What was read of an answer and not passed on yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Held {
    /// Holds one more frame.
    pub(super) fn push(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => self.data.push_back(data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }

    /// Looks at an answer that is about to be passed on: takes what is there of its beginning, and waits for nothing that is
    /// not.
    ///
    /// # Errors
    /// It broke, and nothing of it is held.
    pub(super) async fn look<B>(&mut self, body: &mut B) -> Result<(), B::Error>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        poll_fn(|cx| {
            while self.is_empty() {
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.push(frame),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                    Poll::Ready(None) | Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// Bytes of data.
    pub(super) fn len(&self) -> u64 {
        self.data.iter().map(|data| data.len() as u64).sum()
    }
}

/// The answer's body.
#[derive(Debug)]
pub(super) struct HeldBody<B = Incoming> {
    held: Held,
    rest: B,
}

impl<B> HeldBody<B> {
    pub(super) fn new(held: Held, rest: B) -> Self {
        Self { held, rest }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for HeldBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(data) = this.held.data.pop_front() {
            if this.held.data.is_empty() {
                // The stream may go on for minutes, and there may be thousands.
                this.held.data = VecDeque::new();
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        // Trailers are the last of a body: nothing is behind them.
        if let Some(trailers) = this.held.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut this.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (held, rest) = (self.held.len(), self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(held + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(held + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    type Said = Result<&'static str, &'static str>;

    /// A body that says these at once, and then nothing without end.
    fn body(said: &[Said]) -> impl Body<Data = Bytes, Error = &'static str> + Unpin {
        let frames: Vec<_> = said
            .iter()
            .map(|said| said.map(|data| Frame::data(Bytes::from_static(data.as_bytes()))))
            .collect();
        StreamBody::new(stream::iter(frames).chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_look_tells_a_broken_answer_from_one_that_has_begun_or_is_still_to_come() {
        for (said, expected) in [
            (&[Err("broke")][..], Err("broke")),
            (&[Ok(""), Err("broke")], Err("broke")),
            (&[Ok("a"), Err("broke")], Ok(1)),
            (&[Ok("")], Ok(0)),
            (&[], Ok(0)),
        ] {
            let mut held = Held::default();
            let looked = held.look(&mut body(said)).await;
            assert_eq!(looked.map(|()| held.len()), expected, "{said:?}");
        }
    }

    #[tokio::test]
    async fn what_was_seen_comes_first_and_nothing_twice() {
        let mut rest = body(&[Ok("a"), Ok("b"), Err("broke")]);
        let mut held = Held::default();
        held.look(&mut rest).await.unwrap();
        // A second look sees what is held, and takes no more.
        held.look(&mut rest).await.unwrap();
        let mut whole = HeldBody::new(held, rest);
        assert_eq!(whole.size_hint().lower(), 1);
        for expected in ["a", "b"] {
            assert_eq!(whole.frame().await.unwrap().unwrap().into_data().unwrap(), expected);
        }
        assert_eq!(whole.frame().await.unwrap().unwrap_err(), "broke");
    }
}
