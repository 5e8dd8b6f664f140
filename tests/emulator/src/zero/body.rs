//! The bodies of a zero-think engine: known bytes, or one frame repeated at a pace. No boxes, no channels.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// How every frame begins; the time of emission goes right behind it.
const FRAME_START: &[u8] = b"data: {";

/// Bytes that a stamp takes at most: its name, 20 digits, a comma.
const STAMP_ROOM: usize = 40;

/// A paced frame with its time of emission, nanoseconds since the Unix epoch, as first member of its JSON: who reads it
/// on the same machine knows how long it was under way. Frames without a pace go without, they only cost.
fn stamped(frame: &[u8]) -> Bytes {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let rest = frame.strip_prefix(FRAME_START).unwrap_or_default();
    let mut bytes = Vec::with_capacity(frame.len() + STAMP_ROOM);
    bytes.extend_from_slice(FRAME_START);
    // Writing to a Vec cannot fail.
    let _ = write!(bytes, "\"emitted_ns\":{},", now.as_nanos());
    bytes.extend_from_slice(rest);
    Bytes::from(bytes)
}

/// The body of an answer.
pub(super) enum ZeroBody {
    /// Known bytes; empty once sent.
    Whole(Bytes),
    /// The same frame again and again, then the end marker.
    Frames { frame: Bytes, left: u32, ended: bool, pace: Option<Pace> },
}

impl ZeroBody {
    /// `left` copies of `frame`, `interval` apart, then the end marker.
    pub(super) fn frames(frame: Bytes, left: u32, interval: Duration) -> Self {
        Self::Frames { frame, left, ended: false, pace: Pace::new(interval) }
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
        (!interval.is_zero()).then(|| Self { interval, due, sleep: Box::pin(sleep_until(due)) })
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
            Self::Frames { left: 0, ended: true, .. } => return Poll::Ready(None),
            Self::Frames { left: 0, ended, .. } => {
                *ended = true;
                Bytes::from_static(b"data: [DONE]\n\n")
            }
            Self::Frames { frame, left, pace, .. } => {
                let data = if let Some(pace) = pace {
                    ready!(pace.poll(cx));
                    stamped(frame)
                } else {
                    frame.clone()
                };
                *left -= 1;
                data
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamped_frame_is_the_frame_with_one_more_member() {
        let bytes = stamped(b"data: {\"id\":1}\n\n");
        let text = std::str::from_utf8(&bytes).unwrap();
        let json: serde_json::Value = serde_json::from_str(text.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(json["id"], 1);
        assert!(json["emitted_ns"].as_u64().unwrap() > 1_700_000_000_000_000_000);
        assert!(text.ends_with("}\n\n"));
    }
}
