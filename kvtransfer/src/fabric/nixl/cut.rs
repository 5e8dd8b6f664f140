//! From segments to requests: neighbours on both sides become one move, long ones are cut, and a request takes a bounded
//! number of bytes and moves. Pure.

use super::limits::{REQUEST_BYTES, REQUEST_MOVES};
use crate::segment::{self, Place, Segment, Span};

/// How far a transfer's segments have been cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    segment: usize,
    offset: u64,
}

impl Cursor {
    /// The moves of the next request; none at the end. Those of one request are of regions that `fits` finds alike.
    pub(super) fn next(
        &mut self,
        segments: &[Segment],
        fits: impl Fn(&Segment, &Segment) -> bool,
    ) -> Vec<Segment> {
        let (mut moves, mut left) = (Vec::new(), REQUEST_BYTES);
        while let Some(rest) = self.rest(segments) {
            if rest.len == 0 {
                *self = Self { segment: self.segment + 1, offset: 0 };
                continue;
            }
            let joins = moves.last().is_some_and(|last| joins(last, &rest));
            let full = left == 0 || (!joins && moves.len() == REQUEST_MOVES);
            if full || moves.first().is_some_and(|first| !fits(first, &rest)) {
                break;
            }
            let len = rest.len.min(left);
            match moves.last_mut() {
                Some(last) if joins => last.len += len,
                _ => moves.push(Segment { len, ..rest }),
            }
            (self.offset, left) = (self.offset + len, left - len);
        }
        moves
    }

    /// What is left of the segment that it is at.
    fn rest(&self, segments: &[Segment]) -> Option<Segment> {
        let segment = segments.get(self.segment)?;
        let at = |place: Place| Some(Place { offset: place.offset.checked_add(self.offset)?, ..place });
        Some(Segment {
            local: at(segment.local)?,
            remote: at(segment.remote)?,
            len: segment.len - self.offset,
        })
    }
}

/// Whether `next` goes on where `before` ends, on both sides.
fn joins(before: &Segment, next: &Segment) -> bool {
    let follows =
        |span: Span, place: Place| span.at.region == place.region && span.end() == Some(place.offset);
    follows(before.here(), next.local) && follows(before.there(), next.remote)
}

/// The ranges at the peer, neighbours in order made one, empty ones left out: what a lease is asked for.
pub(super) fn joined(segments: &[Segment]) -> Vec<Span> {
    segment::joined(segments.iter().map(Segment::there).filter(|span| span.len > 0))
}

/// The numbers of the blocks that segments are, here and there, if every one is a block of `len` bytes on both sides, and all
/// are of one pair of regions. NIXL counts blocks in 31 bits.
pub(super) fn as_blocks(segments: &[Segment], len: u64) -> Option<(Vec<i32>, Vec<i32>)> {
    let first = segments.first()?;
    let number = |place: Place, of: Place| {
        let on_one = place.region == of.region && place.offset.is_multiple_of(len);
        on_one.then(|| i32::try_from(place.offset / len).ok()).flatten()
    };
    let mut numbers = (Vec::with_capacity(segments.len()), Vec::with_capacity(segments.len()));
    for segment in segments {
        if segment.len != len {
            return None;
        }
        numbers.0.push(number(segment.local, first.local)?);
        numbers.1.push(number(segment.remote, first.remote)?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RegionId;

    fn segment(local: u64, remote: u64, len: u64) -> Segment {
        let place = |offset| Place { region: RegionId(0), offset };
        Segment { local: place(local), remote: place(remote), len }
    }

    fn requests(segments: &[Segment]) -> Vec<Vec<Segment>> {
        let mut cursor = Cursor::default();
        std::iter::from_fn(|| Some(cursor.next(segments, |_, _| true)).filter(|moves| !moves.is_empty()))
            .collect()
    }

    #[test]
    fn neighbours_on_both_sides_become_one_move() {
        let segments = [segment(0, 100, 10), segment(10, 110, 5), segment(15, 200, 1), segment(99, 201, 1)];
        assert_eq!(requests(&segments), [[segment(0, 100, 15), segment(15, 200, 1), segment(99, 201, 1)]]);
        assert_eq!(joined(&segments), [segment(0, 100, 15).there(), segment(0, 200, 2).there()]);
    }

    #[test]
    fn long_segments_are_cut_and_many_are_spread() {
        let cut = requests(&[segment(0, 7, 2 * REQUEST_BYTES + 1)]);
        let lens: Vec<u64> = cut.iter().map(|moves| moves[0].len).collect();
        assert_eq!(lens, [REQUEST_BYTES, REQUEST_BYTES, 1]);
        let many: Vec<_> = (0..=2 * REQUEST_MOVES as u64).map(|at| segment(2 * at, 3 * at, 1)).collect();
        let counts: Vec<usize> = requests(&many).iter().map(Vec::len).collect();
        assert_eq!(counts, [REQUEST_MOVES, REQUEST_MOVES, 1]);
    }

    #[test]
    fn regions_that_do_not_fit_together_are_asked_for_apart() {
        let mut other = segment(50, 50, 5);
        other.local.region = RegionId(1);
        let segments = [segment(0, 0, 5), segment(20, 20, 5), other];
        let mut cursor = Cursor::default();
        let mut next = || cursor.next(&segments, |a, b| a.local.region == b.local.region).len();
        assert_eq!([next(), next(), next()], [2, 1, 0]);
    }

    #[test]
    fn nothing_moves_nothing() {
        assert_eq!(requests(&[]).len(), 0);
        assert_eq!(requests(&[segment(0, 0, 0), segment(5, 5, 0)]).len(), 0);
        assert_eq!(joined(&[segment(0, 0, 0)]), []);
    }

    #[test]
    fn blocks_have_numbers_and_whatever_is_none_has_none() {
        let blocks = [segment(0, 300, 100), segment(200, 100, 100)];
        assert_eq!(as_blocks(&blocks, 100), Some((vec![0, 2], vec![3, 1])));
        for odd in [segment(0, 0, 50), segment(50, 0, 100), segment(0, 10, 100), segment(1 << 40, 0, 100)] {
            assert_eq!(as_blocks(&[blocks[0], odd], 100), None, "{odd:?}");
        }
        let mut elsewhere = blocks[1];
        elsewhere.remote.region = RegionId(1);
        assert_eq!((as_blocks(&[blocks[0], elsewhere], 100), as_blocks(&[], 100)), (None, None));
    }

    proptest! {
        #[test]
        fn every_byte_is_in_one_move_and_in_its_place(
            gaps in proptest::collection::vec((0..3_u64, 0..3_u64, 0..4_u64), 0..20), scale in 1..REQUEST_BYTES
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
            let runs = |moves: &[Segment]| {
                let mut runs: Vec<Segment> = Vec::new();
                for one in moves.iter().filter(|one| one.len > 0) {
                    match runs.last_mut() {
                        Some(run) if joins(run, one) => run.len += one.len,
                        _ => runs.push(*one),
                    }
                }
                runs
            };
            let cut = requests(&segments);
            prop_assert!(cut.iter().all(|moves| moves.iter().map(|one| one.len).sum::<u64>() <= REQUEST_BYTES));
            prop_assert_eq!(runs(&cut.concat()), runs(&segments));
        }
    }
}
