//! The ways an input is cut, as a socket may cut it.

use bytes::Bytes;
use kvferry_splice::Chunks;

/// Sizes of the pieces, in bytes: each byte alone; small and odd, so that every token is cut somewhere; and one larger
/// than the runs that the string search takes at once.
pub(crate) const SIZES: [usize; 5] = [1, 2, 3, 7, 70];

/// `data` as a body that arrived in pieces of `size` bytes.
pub(crate) fn chunks(data: &[u8], size: usize) -> Chunks {
    let mut chunks = Chunks::new();
    for piece in data.chunks(size) {
        chunks.push(Bytes::copy_from_slice(piece));
    }
    chunks
}
