//! A body as the list of buffers it arrived in, so that it can be kept, cut and sent twice without being copied.

use std::ops::Range;

use bytes::Bytes;

/// A byte string in pieces. Cloning it copies no bytes. No piece is empty.
#[derive(Debug, Clone, Default)]
pub struct Chunks {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Chunks {
    /// An empty body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one buffer.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers in order.
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces
    }

    /// The bytes of `range` as one buffer: shared where they lie in one piece, copied where they do not.
    ///
    /// Bytes beyond the end are left out.
    pub fn gather(&self, range: Range<usize>) -> Bytes {
        let mut cut = self.slice(range);
        match cut.pieces.len() {
            0 => Bytes::new(),
            1 => cut.pieces.swap_remove(0),
            _ => {
                let mut whole = Vec::with_capacity(cut.len);
                for piece in &cut.pieces {
                    whole.extend_from_slice(piece);
                }
                whole.into()
            }
        }
    }

    /// The bytes of `range`, shared. Bytes beyond the end are left out.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Chunks {
        let mut cut = Chunks::new();
        self.append_range(range, &mut cut);
        cut
    }

    /// Appends another body without copying it.
    pub fn extend(&mut self, other: Chunks) {
        self.len += other.len;
        self.pieces.extend(other.pieces);
    }

    /// The buffers in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The whole as one buffer, shared where possible.
    pub fn to_bytes(&self) -> Bytes {
        self.gather(0..self.len)
    }

    /// Appends the bytes of `range` to `out` without copying them.
    pub(crate) fn append_range(&self, range: Range<usize>, out: &mut Chunks) {
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + piece.len();
            if start >= range.end {
                break;
            }
            let from = range.start.max(start);
            let to = range.end.min(end);
            if from < to {
                out.push(piece.slice(from - start..to - start));
            }
            start = end;
        }
    }
}

impl From<Bytes> for Chunks {
    fn from(bytes: Bytes) -> Self {
        let mut chunks = Self::new();
        chunks.push(bytes);
        chunks
    }
}
