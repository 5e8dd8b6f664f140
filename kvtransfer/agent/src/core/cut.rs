//! Pieces of transfers: bounded in bytes and in segments, cut off from the front as they are needed, and named by where they
//! begin, so that a transfer of 2 Mi segments is not copied to be cut.

use kvferry_transfer::{Place, Segment};

/// Bytes of a transfer that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The segment that it begins in.
    pub first: usize,
    /// Bytes of that segment that lie before it.
    pub skip: u64,
    /// Segments that it touches.
    pub count: usize,
    /// Bytes.
    pub bytes: u64,
}

impl Piece {
    /// Its ranges, each with the number of the segment that it is of.
    pub fn ranges<'a>(
        &self,
        segments: &'a [Segment],
    ) -> impl Iterator<Item = (usize, Segment)> + 'a + use<'a> {
        let (mut skip, mut left, first) = (self.skip, self.bytes, self.first);
        segments[first..first + self.count].iter().enumerate().map(move |(index, segment)| {
            let len = (segment.len - skip).min(left);
            let range =
                Segment { local: moved(segment.local, skip), remote: moved(segment.remote, skip), len };
            (skip, left) = (0, left - len);
            (first + index, range)
        })
    }
}

fn moved(place: Place, by: u64) -> Place {
    // Segments that are too long for their regions were refused before.
    Place { offset: place.offset.saturating_add(by), ..place }
}

/// How far a transfer has been cut.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cut {
    at: usize,
    skip: u64,
}

impl Cut {
    /// Whether nothing is left.
    pub fn is_over(&self, segments: &[Segment]) -> bool {
        self.at >= segments.len()
    }

    /// The next piece, of at most `bytes` and `count` segments. `None` if nothing is left.
    pub fn peek(&self, segments: &[Segment], bytes: u64, count: usize) -> Option<Piece> {
        if self.is_over(segments) {
            return None;
        }
        let mut piece = Piece { first: self.at, skip: self.skip, count: 0, bytes: 0 };
        let mut skip = self.skip;
        for segment in segments[self.at..].iter().take(count.max(1)) {
            if piece.count > 0 && piece.bytes >= bytes {
                break;
            }
            piece.bytes += (segment.len - skip).min(bytes - piece.bytes);
            (piece.count, skip) = (piece.count + 1, 0);
        }
        Some(piece)
    }

    /// Goes on behind `piece`, which was the next.
    pub fn pass(&mut self, segments: &[Segment], piece: &Piece) {
        let last = piece.first + piece.count - 1;
        let of_last = piece.ranges(segments).last().map_or(0, |(_, range)| range.len);
        let skipped = if piece.count == 1 { piece.skip } else { 0 };
        if skipped + of_last < segments[last].len {
            (self.at, self.skip) = (last, skipped + of_last);
        } else {
            (self.at, self.skip) = (last + 1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use kvferry_transfer::RegionId;
    use proptest::prelude::*;

    use super::*;

    fn segments(lens: &[u64]) -> Vec<Segment> {
        let place = |region, offset| Place { region: RegionId(region), offset };
        let one = |(index, len): (usize, &u64)| Segment {
            local: place(0, index as u64 * 1000),
            remote: place(1, index as u64 * 2000),
            len: *len,
        };
        lens.iter().enumerate().map(one).collect()
    }

    proptest! {
        #[test]
        fn pieces_hold_every_byte_once_in_order_and_no_more_than_they_may(
            lens in proptest::collection::vec(0_u64..300, 0..40), bytes in 1_u64..400, count in 1_usize..9
        ) {
            let segments = segments(&lens);
            let (mut cut, mut found) = (Cut::default(), vec![0; lens.len()]);
            while let Some(piece) = cut.peek(&segments, bytes, count) {
                prop_assert!(piece.bytes <= bytes && (1..=count).contains(&piece.count), "{piece:?}");
                let mut sum = 0;
                for (index, range) in piece.ranges(&segments) {
                    prop_assert_eq!(range.local.offset, index as u64 * 1000 + found[index]);
                    prop_assert_eq!(range.remote.offset, index as u64 * 2000 + found[index]);
                    found[index] += range.len;
                    sum += range.len;
                }
                prop_assert_eq!(sum, piece.bytes);
                cut.pass(&segments, &piece);
            }
            prop_assert_eq!(found, lens);
            prop_assert!(cut.is_over(&segments));
        }
    }
}
