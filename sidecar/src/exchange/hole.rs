//! A body with one gap in it, into which the same piece or a new one is put for each request made from it. What stands
//! around the gap is shared between them all: a conversation full of images is not copied for each image, nor for each
//! chunk of its answer.

use bytes::Bytes;
use kvferry_splice::{Chunks, scan_chunks};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Hole {
    before: Chunks,
    after: Chunks,
}

impl Hole {
    /// Opens `body` inside the value of its member `name`, `from_end` bytes before that value's end. `None` if there is
    /// no such member or it is too short.
    pub(super) fn open(body: &Chunks, name: &str, from_end: usize) -> Option<Self> {
        let watch = [name];
        let value = scan_chunks(body, &watch).ok()?.value(name)?;
        let at = value.end.checked_sub(from_end).filter(|at| *at >= value.start)?;
        Some(Self { before: body.slice(0..at), after: body.slice(at..body.len()) })
    }

    /// The body with `piece` in the gap.
    pub(super) fn fill(&self, piece: Bytes) -> Chunks {
        let mut filled = self.before.clone();
        filled.push(piece);
        filled.extend(self.after.clone());
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_go_where_the_gap_is_and_nothing_else_changes() {
        let mut body = Chunks::new();
        for piece in [r#" {"a":1.0,"me"#, r#"ssages":[{"x":"#, r"[]}],", r#""b":[2]}"#] {
            body.push(Bytes::from(piece));
        }
        let hole = Hole::open(&body, "messages", 3).unwrap();
        for piece in ["", "1", r#""two""#] {
            let filled = hole.fill(Bytes::copy_from_slice(piece.as_bytes())).to_bytes();
            assert_eq!(filled, format!(r#" {{"a":1.0,"messages":[{{"x":[{piece}]}}],"b":[2]}}"#));
        }
        assert!(Hole::open(&body, "messages", 100).is_none());
        assert!(Hole::open(&body, "other", 0).is_none());
    }
}
