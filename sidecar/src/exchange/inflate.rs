//! Undoes gzip that an engine applied although it was asked not to: what is to be read or edited must be plain.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};

/// Compressed bytes taken at once from a stream: at deflate's worst ratio (about 1,000) they become a megabyte.
const STEP: usize = 1024;

/// Whether the body is gzip-compressed, and nothing else.
pub(super) fn is_gzip(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|coding| {
        coding.as_bytes().eq_ignore_ascii_case(b"gzip") || coding.as_bytes().eq_ignore_ascii_case(b"x-gzip")
    })
}

/// The head no longer speaks of a compressed body.
pub(super) fn now_plain(headers: &mut HeaderMap) {
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
}

/// A whole body, plain; at most `limit` bytes.
pub(super) fn inflate(compressed: &[u8], limit: usize) -> Result<Bytes, String> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(compressed)
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(|error| format!("its gzip coding is broken: {error}"))?;
    if plain.len() > limit {
        Err(format!("it inflates to more than {limit} bytes"))
    } else {
        Ok(plain.into())
    }
}

/// Inflates a stream, a step at a time, so that a small buffer cannot become a huge one.
#[derive(Debug)]
pub(super) struct Inflater {
    decoder: flate2::write::MultiGzDecoder<Vec<u8>>,
    waiting: Bytes,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { decoder: flate2::write::MultiGzDecoder::new(Vec::new()), waiting: Bytes::new() }
    }

    /// Takes the next compressed buffer; the last one must have been used up by [`Self::step`].
    pub(super) fn feed(&mut self, compressed: Bytes) {
        debug_assert!(self.waiting.is_empty());
        self.waiting = compressed;
    }

    /// The next plain bytes, or `None` if more input is needed.
    pub(super) fn step(&mut self) -> Result<Option<Bytes>, std::io::Error> {
        while !self.waiting.is_empty() {
            let step = self.waiting.split_to(self.waiting.len().min(STEP));
            self.decoder.write_all(&step)?;
            // What the decoder holds back comes out now: a frame must not wait for the next one.
            self.decoder.flush()?;
            let plain = std::mem::take(self.decoder.get_mut());
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert_eq!(inflate(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        assert!(inflate(&bomb, (1 << 20) - 1).unwrap_err().contains("more than"));
        assert!(inflate(b"not gzip", 100).is_err());
    }

    #[test]
    fn a_stream_comes_out_in_bounded_steps() {
        let plain: Vec<u8> = (0..500_000_u32).flat_map(|n| (n % 977).to_le_bytes()).collect();
        let mut inflater = Inflater::new();
        let mut out = Vec::new();
        for piece in gzip(&plain).chunks(5000) {
            inflater.feed(Bytes::copy_from_slice(piece));
            while let Some(bytes) = inflater.step().unwrap() {
                out.extend_from_slice(&bytes);
            }
        }
        assert_eq!(out, plain);
    }
}
