//! From segments to operations: neighbours on both sides become one, and long ones are cut. Pure.

use crate::segment::{self, Place, Segment, Span};

/// One operation's bytes.
pub(super) type Piece = Segment;

/// How far a transfer's segments have been cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    segment: usize,
    offset: u64,
}

impl Cursor {
    /// The next piece of at most so many bytes; `None` at the end.
    pub(super) fn next(&mut self, segments: &[Segment], most: u64) -> Option<Piece> {
        let mut piece: Option<Piece> = None;
        while let Some(segment) = segments.get(self.segment) {
            let left = segment.len - self.offset;
            let at = |place: Place| place.offset.checked_add(self.offset);
            let (Some(local), Some(remote)) = (at(segment.local), at(segment.remote)) else { return piece };
            let (local, remote) =
                (Place { offset: local, ..segment.local }, Place { offset: remote, ..segment.remote });
            let taken = match &mut piece {
                _ if left == 0 => 0,
                None => {
                    let len = left.min(most);
                    piece = Some(Piece { local, remote, len });
                    len
                }
                Some(piece) if follows(piece.here(), local) && follows(piece.there(), remote) => {
                    let len = left.min(most - piece.len);
                    piece.len += len;
                    len
                }
                Some(_) => break,
            };
            self.offset += taken;
            if self.offset < segment.len {
                break;
            }
            *self = Self { segment: self.segment + 1, offset: 0 };
        }
        piece
    }
}

/// Whether the byte at `place` comes right after the last of `span`.
fn follows(span: Span, place: Place) -> bool {
    span.at.region == place.region && span.end() == Some(place.offset)
}

/// The ranges at the peer, neighbours in order made one, empty ones left out: what a lease is asked for.
pub(super) fn joined(segments: &[Segment]) -> Vec<Span> {
    segment::joined(segments.iter().map(Segment::there).filter(|span| span.len > 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RegionId;

    const OP_BYTES: u64 = 1 << 20;

    fn segment(local: u64, remote: u64, len: u64) -> Segment {
        let place = |offset| Place { region: RegionId(0), offset };
        Segment { local: place(local), remote: place(remote), len }
    }

    fn pieces(segments: &[Segment]) -> Vec<Piece> {
        let mut cursor = Cursor::default();
        std::iter::from_fn(|| cursor.next(segments, OP_BYTES)).collect()
    }

    #[test]
    fn neighbours_on_both_sides_become_one_operation() {
        let segments = [segment(0, 100, 10), segment(10, 110, 5), segment(15, 200, 1), segment(99, 201, 1)];
        assert_eq!(pieces(&segments), [segment(0, 100, 15), segment(15, 200, 1), segment(99, 201, 1)]);
        assert_eq!(joined(&segments), [segment(0, 100, 15).there(), segment(0, 200, 2).there()]);
    }

    #[test]
    fn long_segments_are_cut() {
        let cut = pieces(&[segment(0, 7, 2 * OP_BYTES + 1), segment(2 * OP_BYTES + 1, 8 + 2 * OP_BYTES, 1)]);
        assert_eq!(
            cut,
            [
                segment(0, 7, OP_BYTES),
                segment(OP_BYTES, OP_BYTES + 7, OP_BYTES),
                segment(2 * OP_BYTES, 2 * OP_BYTES + 7, 2)
            ]
        );
    }

    #[test]
    fn nothing_moves_nothing() {
        assert_eq!(pieces(&[]), []);
        assert_eq!(pieces(&[segment(0, 0, 0), segment(5, 5, 0)]), []);
        assert_eq!(joined(&[segment(0, 0, 0)]), []);
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_piece_and_in_its_place(
            gaps in proptest::collection::vec((0..3_u64, 0..3_u64, 0..4_u64), 0..20), scale in 1..OP_BYTES
        ) {
            let (mut local, mut remote) = (0, 1 << 40);
            let segments: Vec<_> = gaps
                .into_iter()
                .map(|(here, there, len)| {
                    (local, remote) = (local + here, remote + there);
                    let segment = segment(local, remote, len * scale);
                    (local, remote) = (local + segment.len, remote + segment.len);
                    segment
                })
                .collect();
            // One run of bytes for each (distance of both sides), whichever way it is cut.
            let runs = |pieces: &[Segment]| {
                let mut runs: Vec<Segment> = Vec::new();
                for piece in pieces.iter().filter(|piece| piece.len > 0) {
                    match runs.last_mut() {
                        Some(run) if follows(run.here(), piece.local) && follows(run.there(), piece.remote) => {
                            run.len += piece.len;
                        }
                        _ => runs.push(*piece),
                    }
                }
                runs
            };
            let cut = pieces(&segments);
            prop_assert!(cut.iter().all(|piece| (1..=OP_BYTES).contains(&piece.len)));
            prop_assert_eq!(runs(&cut), runs(&segments));
        }
    }
}
