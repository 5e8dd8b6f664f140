//! Passes a server-sent event stream on as it arrives and offers single lines for editing.
//!
//! A buffer without anything to edit is forwarded as it came, not cut and not copied. The race guarded here is between
//! latency and framing: a line may be split over several reads, so an unfinished line is held until its end comes; no
//! reader can act on half a line, so nobody waits longer for it. What is held is bounded by [`MAX_HELD_LINE`]; a longer
//! line is passed on unedited.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem, memrchr};

/// Longest unfinished line that is held, in bytes. Usage frames have some hundred bytes; a line beyond this is payload
/// (audio, log-probabilities) that need not be edited.
pub const MAX_HELD_LINE: usize = 256 * 1024;

/// The state of one stream.
#[derive(Debug)]
pub struct SseRewriter {
    needle: &'static memmem::Finder<'static>,
    /// An unfinished line, held until its end comes.
    held: BytesMut,
    /// Inside a line that grew too long: pass on until its end.
    skipping: bool,
}

impl SseRewriter {
    /// A rewriter that looks only at lines with `needle` in them. The search is prepared once for all streams.
    pub fn new(needle: &'static memmem::Finder<'static>) -> Self {
        Self { needle, held: BytesMut::new(), skipping: false }
    }

    /// Takes the next buffer of the stream and returns what can go on now, which may be empty.
    ///
    /// `edit` is offered the payload of each `data:` line that holds the needle: what stands behind `data:` and one
    /// optional space, without the line's end. `None` leaves the line as it was.
    pub fn push(&mut self, mut chunk: Bytes, edit: &mut impl FnMut(&[u8]) -> Option<Bytes>) -> Bytes {
        if self.skipping {
            let Some(end) = memchr(b'\n', &chunk) else {
                return chunk;
            };
            self.skipping = false;
            let rest = chunk.split_off(end + 1);
            return join(chunk, self.push(rest, edit));
        }
        if self.held.is_empty() && chunk.last() == Some(&b'\n') {
            return self.edit_lines(chunk, edit);
        }
        let complete = if let Some(end) = memrchr(b'\n', &chunk) {
            let tail = chunk.split_off(end + 1);
            let complete = if self.held.is_empty() {
                chunk
            } else {
                self.held.extend_from_slice(&chunk);
                self.held.split().freeze()
            };
            self.held.extend_from_slice(&tail);
            self.edit_lines(complete, edit)
        } else {
            self.held.extend_from_slice(&chunk);
            Bytes::new()
        };
        if self.held.len() > MAX_HELD_LINE {
            self.skipping = true;
            return join(complete, self.held.split().freeze());
        }
        complete
    }

    /// The stream ended: what was held, edited if it is a whole payload.
    pub fn finish(&mut self, edit: &mut impl FnMut(&[u8]) -> Option<Bytes>) -> Bytes {
        let rest = self.held.split().freeze();
        self.edit_lines(rest, edit)
    }

    /// `lines`: whole lines, except that the very last one of a stream may lack its end.
    fn edit_lines(&self, lines: Bytes, edit: &mut impl FnMut(&[u8]) -> Option<Bytes>) -> Bytes {
        if self.needle.find(&lines).is_none() {
            return lines;
        }
        let mut out: Option<BytesMut> = None;
        let mut start = 0;
        while start < lines.len() {
            let end = memchr(b'\n', &lines[start..]).map_or(lines.len(), |at| start + at + 1);
            let line = &lines[start..end];
            let edited = self.edit_line(line, edit);
            match (&mut out, edited) {
                (None, None) => {}
                (Some(out), None) => out.extend_from_slice(line),
                (out, Some(edited)) => {
                    let out = out.get_or_insert_with(|| BytesMut::from(&lines[..start]));
                    out.extend_from_slice(&edited);
                }
            }
            start = end;
        }
        out.map_or(lines, BytesMut::freeze)
    }

    fn edit_line(&self, line: &[u8], edit: &mut impl FnMut(&[u8]) -> Option<Bytes>) -> Option<BytesMut> {
        let field = line.strip_prefix(b"data:")?;
        self.needle.find(field)?;
        let field = field.strip_prefix(b" ").unwrap_or(field);
        let payload = field.strip_suffix(b"\n").unwrap_or(field);
        let payload = payload.strip_suffix(b"\r").unwrap_or(payload);
        let new = edit(payload)?;
        let before = line.len() - field.len();
        let mut edited = BytesMut::with_capacity(line.len() + new.len());
        edited.extend_from_slice(&line[..before]);
        edited.extend_from_slice(&new);
        edited.extend_from_slice(&field[payload.len()..]);
        Some(edited)
    }
}

fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second,
        (_, true) => first,
        _ => [first, second].concat().into(),
    }
}
