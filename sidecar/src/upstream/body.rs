//! What can be sent upstream: nothing, a spliced body in pieces, or the client's own body as it arrives.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use kvferry_splice::Chunks;

/// A request body on its way to an engine. Boxed: the HTTP library keeps a block of request-sized slots for each
/// connection, so every byte here counts thirty-two times.
#[derive(Debug)]
pub struct LegBody(Box<Kind>);

#[derive(Debug)]
enum Kind {
    /// No body.
    Empty,
    /// A known body; its pieces are shared, not copied.
    Pieces {
        /// In order.
        pieces: std::vec::IntoIter<Bytes>,
        /// Bytes not yet handed out.
        left: u64,
    },
    /// The client's body, passed on frame by frame.
    Client(Incoming),
}

impl LegBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Box::new(Kind::Empty))
    }
}

impl From<Incoming> for LegBody {
    fn from(body: Incoming) -> Self {
        Self(Box::new(Kind::Client(body)))
    }
}

impl From<Chunks> for LegBody {
    fn from(chunks: Chunks) -> Self {
        let left = chunks.len() as u64;
        Self(Box::new(Kind::Pieces { pieces: chunks.into_pieces().into_iter(), left }))
    }
}

impl Body for LegBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self.get_mut().0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Pieces { pieces, left } => Poll::Ready(pieces.next().map(|piece| {
                *left -= piece.len() as u64;
                Ok(Frame::data(piece))
            })),
            Kind::Client(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.0 {
            Kind::Empty => true,
            Kind::Pieces { left, .. } => *left == 0,
            Kind::Client(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Pieces { left, .. } => SizeHint::with_exact(*left),
            Kind::Client(body) => body.size_hint(),
        }
    }
}
