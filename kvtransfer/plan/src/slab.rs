//! The layers, planes and heads that two groups exchange, as strides: what is the same for every block, found once.

use crate::Place;

/// `n` of something, each so many bytes after the one before. Strides of the source may be negative (they wrap).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dim {
    pub n: u64,
    pub from: u64,
    pub to: u64,
}

/// Layers, planes and heads at regular distances on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slab {
    /// The first byte of the first of them.
    pub from: Place,
    /// The same at the destination.
    pub to: Place,
    /// None of only one; the widest stride of the destination first.
    pub dims: Vec<Dim>,
}

impl Slab {
    pub(crate) fn new(from: Place, to: Place, dims: impl IntoIterator<Item = Dim>) -> Self {
        let mut slab = Self { from, to, dims: dims.into_iter().filter(|dim| dim.n > 1).collect() };
        slab.order();
        slab
    }

    fn order(&mut self) {
        self.dims.sort_unstable_by_key(|dim| std::cmp::Reverse(dim.to));
    }

    /// The distance to `next`, if it is the same but for its place.
    fn step(&self, next: &Self) -> Option<(u64, u64)> {
        let alike = self.dims == next.dims
            && self.from.region == next.from.region
            && self.to.region == next.to.region;
        let from = next.from.offset.wrapping_sub(self.from.offset);
        alike.then(|| (from, next.to.offset - self.to.offset))
    }
}

/// Puts slabs at regular distances into one, and all in ascending order of the destination.
pub(crate) fn stack(mut slabs: Vec<Slab>) -> Vec<Slab> {
    slabs.sort_by_key(|slab| slab.to);
    let mut stacked = Vec::new();
    let mut rest = slabs.as_slice();
    while let Some(first) = rest.first() {
        let step = rest.get(1).and_then(|second| first.step(second));
        let regular =
            rest.windows(2).take_while(|pair| step.is_some() && pair[0].step(&pair[1]) == step).count() + 1;
        // Any two are at a regular distance; of many, that is chance, and would only make each pair a shape of its own.
        let n = if regular == 2 && slabs.len() > 2 { 1 } else { regular };
        let mut slab = first.clone();
        if let (Some((from, to)), true) = (step, n > 1) {
            slab.dims.push(Dim { n: n as u64, from, to });
            slab.order();
        }
        stacked.push(slab);
        rest = &rest[n..];
    }
    stacked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(region: u32, offset: u64) -> Place {
        Place { region, offset }
    }

    fn slabs(places: &[(u64, u64)]) -> Vec<Slab> {
        places.iter().map(|&(from, to)| Slab::new(at(0, from), at(0, to), [])).collect()
    }

    #[test]
    fn tensors_at_regular_distances_become_one() {
        let stacked = stack(slabs(&[(50, 300), (0, 100), (25, 200)]));
        assert_eq!(stacked.len(), 1);
        assert_eq!((stacked[0].from, stacked[0].to), (at(0, 0), at(0, 100)));
        assert_eq!(stacked[0].dims, [Dim { n: 3, from: 25, to: 100 }]);
    }

    #[test]
    fn tensors_at_irregular_distances_stay_alone_in_ascending_order() {
        let stacked = stack(slabs(&[(0, 500), (7, 100), (20, 230), (21, 300)]));
        assert_eq!(stacked.iter().map(|slab| slab.to.offset).collect::<Vec<_>>(), [100, 230, 300, 500]);
        assert!(stacked.iter().all(|slab| slab.dims.is_empty()));
    }

    #[test]
    fn a_source_may_run_backwards_and_regions_are_never_joined() {
        let stacked = stack(slabs(&[(20, 0), (10, 100), (0, 200)]));
        assert_eq!(stacked[0].dims, [Dim { n: 3, from: 10u64.wrapping_neg(), to: 100 }]);
        let regions = (0..3).map(|region| Slab::new(at(0, 0), at(region, 0), []));
        assert_eq!(stack(regions.collect()).len(), 3);
    }
}
