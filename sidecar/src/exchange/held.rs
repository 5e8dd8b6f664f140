//! An engine's answer of which the beginning was read already: what was held comes first, then the rest as it arrives.

use std::collections::VecDeque;
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
pub(super) struct HeldBody {
    held: Held,
    rest: Incoming,
}

impl HeldBody {
    pub(super) fn new(held: Held, rest: Incoming) -> Self {
        Self { held, rest }
    }
}

impl Body for HeldBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(data) = this.held.data.pop_front() {
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
