//! The bodies of a zero-think engine: known bytes, or one frame repeated at a pace. No boxes, no channels.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// The body of an answer.
pub(super) enum ZeroBody {
    /// Known bytes; empty once sent.
    Whole(Bytes),
    /// The same frame again and again, then the end marker.
    Frames {
        frame: Bytes,
        left: u32,
        ended: bool,
        pace: Option<Pace>,
    },
}

impl ZeroBody {
    /// `left` copies of `frame`, `interval` apart, then the end marker.
    pub(super) fn frames(frame: Bytes, left: u32, interval: Duration) -> Self {
        Self::Frames {
            frame,
            left,
            ended: false,
            pace: Pace::new(interval),
        }
    }
}

/// When the next frame is due. Counted from the first, so that late timers do not add up.
pub(super) struct Pace {
    interval: Duration,
    due: Instant,
    sleep: Pin<Box<Sleep>>,
}

impl Pace {
    fn new(interval: Duration) -> Option<Self> {
        let due = Instant::now();
        (!interval.is_zero()).then(|| Self {
            interval,
            due,
            sleep: Box::pin(sleep_until(due)),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if Instant::now() < self.due {
            ready!(self.sleep.as_mut().poll(cx));
        }
        self.due += self.interval;
        self.sleep.as_mut().reset(self.due);
        Poll::Ready(())
    }
}

impl Body for ZeroBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let data = match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Self::Whole(bytes) => std::mem::take(bytes),
            Self::Frames {
                left: 0, ended: true, ..
            } => return Poll::Ready(None),
            Self::Frames { left: 0, ended, .. } => {
                *ended = true;
                Bytes::from_static(b"data: [DONE]\n\n")
            }
            Self::Frames {
                frame, left, pace, ..
            } => {
                if let Some(pace) = pace {
                    ready!(pace.poll(cx));
                }
                *left -= 1;
                frame.clone()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Frames { .. } => SizeHint::default(),
        }
    }
}
