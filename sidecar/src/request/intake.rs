//! Reads a client's body: bounded in size, bounded in patience, checked and scanned while it arrives.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kvferry_splice::{Chunks, Document, Malformed, Scanner, scan_chunks};

use crate::error::Error;

/// Frames smaller than this are copied together: kept one by one, a body sent byte by byte would cost a hundred times
/// its size, and each frame would pin the whole buffer it was read into.
const SMALL_FRAME: usize = 4096;

/// How long, and how much, is still read of a body that was refused. A connection closed on a client that is still
/// sending is reset, and the reset can destroy the answer before the client has read it.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 64 * 1024 * 1024);

/// Reads and forgets what is left of a refused body, within limits.
pub async fn linger(mut body: Incoming) {
    let (patience, mut left) = LINGER;
    let _ = tokio::time::timeout(patience, async {
        while let Some(Ok(frame)) = body.frame().await {
            let size = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(size) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    })
    .await;
}

/// Reads `body` to its end and looks at nothing. The caller knows it to be small.
///
/// # Errors
/// No byte for `patience`; framing broken.
pub async fn gather(body: &mut Incoming, patience: Duration) -> Result<Chunks, Error> {
    let mut whole = Collector::default();
    while let Some(data) = data(body, patience).await? {
        whole.push(data);
    }
    Ok(whole.finish())
}

/// The next data of `body`; `None` at its end.
async fn data(body: &mut Incoming, patience: Duration) -> Result<Option<Bytes>, Error> {
    loop {
        match tokio::time::timeout(patience, body.frame()).await {
            Err(_) => return Err(Error::BodyStalled),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Error::BodyBroken(error.to_string())),
            // Trailers of a request carry nothing that a leg needs.
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A whole body and where its top-level members of interest lie.
#[derive(Debug, Clone)]
pub struct Intake {
    /// The bytes as they came.
    pub body: Chunks,
    /// Their scan.
    pub document: Document<'static>,
}

impl Intake {
    /// The member that names the model.
    pub const MODEL: &'static str = "model";

    /// The model that is asked for, if it is named.
    pub fn model(&self) -> Option<String> {
        let text = self.body.gather(self.document.value(Self::MODEL)?);
        serde_json::from_slice(&text).ok()
    }

    /// A body that was made here.
    ///
    /// # Errors
    /// It is not a JSON object, or has too many members of the watched names.
    pub fn of(body: Chunks, watch: &'static [&'static str]) -> Result<Self, Malformed> {
        let document = scan_chunks(&body, watch)?;
        Ok(Self { body, document })
    }

    /// Reads `body` to its end.
    ///
    /// # Errors
    /// Larger than `limit` bytes; no byte for `patience`; framing broken; not a JSON object.
    pub async fn read(
        body: &mut Incoming,
        watch: &'static [&'static str],
        limit: usize,
        patience: Duration,
    ) -> Result<Self, Error> {
        if body.size_hint().lower() > limit as u64 {
            return Err(Error::BodyTooLarge { limit });
        }
        let mut scanner = Scanner::new(watch);
        let mut whole = Collector::default();
        while let Some(data) = data(body, patience).await? {
            if whole.len() + data.len() > limit {
                return Err(Error::BodyTooLarge { limit });
            }
            scanner.feed(&data)?;
            whole.push(data);
        }
        let document = scanner.finish()?;
        Ok(Self { body: whole.finish(), document })
    }
}

/// Puts frames together: large ones as they are, small ones copied into one buffer.
#[derive(Debug, Default)]
pub struct Collector {
    chunks: Chunks,
    small: BytesMut,
}

impl Collector {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.chunks.len() + self.small.len()
    }

    /// Takes one frame.
    pub fn push(&mut self, frame: Bytes) {
        if frame.len() < SMALL_FRAME {
            self.small.extend_from_slice(&frame);
        } else {
            self.chunks.push(self.small.split().freeze());
            self.chunks.push(frame);
        }
    }

    /// All of it.
    pub fn finish(mut self) -> Chunks {
        self.chunks.push(self.small.freeze());
        self.chunks
    }
}
