//! Cuts a transfer into chunks: neighbours on both sides become one range, and a chunk has at most so many bytes and
//! ranges. It goes along as chunks are asked for, so that a transfer of two million segments costs nothing up front.

use std::sync::Arc;

use super::limits::{CHUNK_BYTES, CHUNK_RANGES};
use crate::segment::{Place, Segment};

/// What is still to be cut.
#[derive(Debug)]
pub(super) struct Cutter {
    segments: Arc<[Segment]>,
    next: usize,
    /// Bytes of `segments[next]` that are cut already.
    cut: u64,
    begun: bool,
}

/// Some of a transfer. Never empty, but for the one chunk of a transfer that has nothing to move: it asks the peer
/// whether the lease holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) segments: Vec<Segment>,
    pub(super) bytes: u64,
}

impl Cutter {
    pub(super) fn new(segments: Arc<[Segment]>) -> Self {
        let mut cutter = Self { segments, next: 0, cut: 0, begun: false };
        cutter.skip_empty();
        cutter
    }

    /// Whether there is no further chunk.
    pub(super) fn ended(&self) -> bool {
        self.begun && self.next == self.segments.len()
    }

    /// Whether there was no chunk yet.
    pub(super) fn untouched(&self) -> bool {
        !self.begun
    }

    /// The next chunk.
    pub(super) fn next(&mut self) -> Option<Piece> {
        if self.ended() {
            return None;
        }
        self.begun = true;
        let mut piece = Piece { segments: Vec::new(), bytes: 0 };
        while let Some(segment) = self.segments.get(self.next) {
            let rest = Segment {
                local: moved(segment.local, self.cut),
                remote: moved(segment.remote, self.cut),
                len: (segment.len - self.cut).min(CHUNK_BYTES - piece.bytes),
            };
            if rest.len == 0 || !piece.add(rest) {
                break;
            }
            self.cut += rest.len;
            if self.cut == segment.len {
                self.next += 1;
                self.cut = 0;
                self.skip_empty();
            }
        }
        Some(piece)
    }

    fn skip_empty(&mut self) {
        while self.segments.get(self.next).is_some_and(|segment| segment.len == 0) {
            self.next += 1;
        }
    }
}

impl Piece {
    /// `false` if it has as many ranges as it may.
    fn add(&mut self, segment: Segment) -> bool {
        let follows = |last: &&mut Segment| {
            moved(last.local, last.len) == segment.local && moved(last.remote, last.len) == segment.remote
        };
        if let Some(last) = self.segments.last_mut().filter(follows) {
            last.len += segment.len;
        } else if self.segments.len() < CHUNK_RANGES {
            self.segments.push(segment);
        } else {
            return false;
        }
        self.bytes += segment.len;
        true
    }
}

/// Offsets were checked against their regions before anything was cut, so no sum overflows; saturating says so without
/// a way to panic.
fn moved(place: Place, by: u64) -> Place {
    Place { region: place.region, offset: place.offset.saturating_add(by) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RegionId;

    fn segment(local: u64, remote: u64, len: u64) -> Segment {
        let place = |region, offset| Place { region: RegionId(region), offset };
        Segment { local: place(0, local), remote: place(1, remote), len }
    }

    fn all(segments: &[Segment]) -> Vec<Piece> {
        let mut cutter = Cutter::new(segments.into());
        let pieces: Vec<_> = std::iter::from_fn(|| cutter.next()).collect();
        assert!(cutter.ended());
        pieces
    }

    #[test]
    fn neighbours_on_both_sides_become_one_range_and_on_one_side_they_do_not() {
        let pieces =
            all(&[segment(0, 100, 10), segment(10, 110, 5), segment(15, 200, 5), segment(30, 205, 5)]);
        assert_eq!(
            pieces,
            [Piece {
                segments: vec![segment(0, 100, 15), segment(15, 200, 5), segment(30, 205, 5)],
                bytes: 25
            }]
        );
    }

    #[test]
    fn a_large_segment_is_cut_and_small_ones_share_a_chunk() {
        let large = all(&[segment(0, 0, 2 * CHUNK_BYTES + 1)]);
        assert_eq!(large.iter().map(|piece| piece.bytes).collect::<Vec<_>>(), [CHUNK_BYTES, CHUNK_BYTES, 1]);
        let small: Vec<_> = (0..=CHUNK_RANGES as u64).map(|i| segment(i * 20, i * 20, 10)).collect();
        let ranges: Vec<_> = all(&small).iter().map(|piece| piece.segments.len()).collect();
        assert_eq!(ranges, [CHUNK_RANGES, 1]);
    }

    #[test]
    fn nothing_to_move_is_one_empty_chunk() {
        let nothing = [Piece { segments: vec![], bytes: 0 }];
        assert_eq!(all(&[]), nothing);
        assert_eq!(all(&[segment(5, 5, 0), segment(9, 9, 0)]), nothing);
        assert_eq!(all(&[segment(0, 0, 0), segment(0, 0, 1), segment(0, 0, 0)]).len(), 1);
    }

    proptest! {
        #[test]
        fn chunks_move_every_byte_once_in_order_and_within_bounds(
            parts in proptest::collection::vec((0_u64..3, 0_u64..3, prop_oneof![0_u64..5, 0..3 * CHUNK_BYTES]), 0..40)
        ) {
            let (mut local, mut remote) = (0, 0);
            let segments: Vec<_> = parts.iter().map(|(skip_here, skip_there, len)| {
                let made = segment(local + skip_here, remote + skip_there, *len);
                local += skip_here + len;
                remote += skip_there + len;
                made
            }).collect();
            let pieces = all(&segments);
            for piece in &pieces {
                prop_assert!(piece.bytes <= CHUNK_BYTES && piece.segments.len() <= CHUNK_RANGES);
                prop_assert_eq!(piece.bytes, piece.segments.iter().map(|segment| segment.len).sum::<u64>());
                prop_assert!(piece.bytes > 0 || pieces.len() == 1);
            }
            // Cut where either side was cut, both lists must name the same bytes.
            let mut cut = pieces.into_iter().flat_map(|piece| piece.segments);
            let mut rest: Option<Segment> = None;
            for mut want in segments {
                while want.len > 0 {
                    let have = rest.take().or_else(|| cut.next()).unwrap();
                    prop_assert_eq!((have.local, have.remote), (want.local, want.remote));
                    let len = have.len.min(want.len);
                    want = Segment { local: moved(want.local, len), remote: moved(want.remote, len), len: want.len - len };
                    let left = Segment { local: moved(have.local, len), remote: moved(have.remote, len), len: have.len - len };
                    rest = (left.len > 0).then_some(left);
                }
            }
            prop_assert!(rest.is_none() && cut.next().is_none());
        }
    }
}
