//! The plan itself: runs of blocks times layers, planes and heads.

use std::ops::Range;

use crate::{
    Blocks, Move, Pairing, Place, Side, Tokens, Unplannable,
    cut::{Cut, Listed, Run, cut},
    pairing::{Exchange, Steps},
    slab::Dim,
    walk::{Out, Shape, walk},
};

impl Pairing {
    /// The fewest moves that bring `tokens` from the `source`'s blocks to the `destination`'s, in ascending order of the
    /// destination. There is one list for each group of either geometry; those that nothing flows to or from may be empty.
    ///
    /// At most `most` moves are made; where layouts differ, a single token may be many thousands.
    ///
    /// # Errors
    /// [`Unplannable`], if lists do not hold the tokens, if destinations would overlap, or past `most`.
    pub fn plan(
        &self,
        source: &[Blocks<'_>],
        destination: &[Blocks<'_>],
        tokens: Tokens,
        most: usize,
    ) -> Result<Vec<Move>, Unplannable> {
        let mut moves = Vec::new();
        self.plan_into(source, destination, tokens, most, &mut moves)?;
        Ok(moves)
    }

    /// As [`plan`](Self::plan), into a list whose memory is used again; what was in it is gone, also after an error.
    ///
    /// # Errors
    /// As [`plan`](Self::plan).
    pub fn plan_into(
        &self,
        source: &[Blocks<'_>],
        destination: &[Blocks<'_>],
        tokens: Tokens,
        most: usize,
        moves: &mut Vec<Move>,
    ) -> Result<(), Unplannable> {
        moves.clear();
        let Tokens { from, to, length } = tokens;
        if from > to || to > length {
            return Err(Unplannable::Tokens { from, to, length });
        }
        for (side, given, groups) in
            [(Side::Source, source, &self.source), (Side::Destination, destination, &self.destination)]
        {
            if given.len() != groups.len() {
                return Err(Unplannable::Groups { side, given: given.len(), expected: groups.len() });
            }
        }
        let mut out = Out { moves, most, ascending: true };
        for exchange in &self.exchanges {
            let listed = |side, group, steps: &[Steps], lists: &[_]| Listed {
                side,
                group,
                steps: steps[group],
                list: lists[group],
            };
            let from = listed(Side::Source, exchange.source, &self.source, source);
            let to = listed(Side::Destination, exchange.destination, &self.destination, destination);
            let cut = cut(&from, &to, tokens, exchange.attention.sees_from(tokens.length))?;
            exchange.emit(&cut, &from.steps, &to.steps, &mut out)?;
        }
        out.finish()
    }
}

/// A run and its shape.
struct Spot {
    from: u64,
    to: u64,
    shape: usize,
}

/// The runs of a cut, for slabs of the same dims.
struct Spots {
    shapes: Vec<Shape>,
    spots: Vec<Spot>,
}

/// A slab's dims by where they lie at the destination: outside its blocks, inside a block but outside its tokens, inside.
struct Nested<'a> {
    outer: &'a [Dim],
    between: &'a [Dim],
    inner: &'a [Dim],
}

impl<'a> Nested<'a> {
    fn new(dims: &'a [Dim], to: &Steps) -> Self {
        let (outer, rest) = dims.split_at(dims.partition_point(|dim| dim.to >= to.block));
        let (between, inner) = rest.split_at(rest.partition_point(|dim| dim.to >= to.token));
        Self { outer, between, inner }
    }
}

impl Exchange {
    fn emit(&self, cut: &Cut, from: &Steps, to: &Steps, out: &mut Out<'_>) -> Result<(), Unplannable> {
        let head = self.attention.head_bytes();
        for slabs in self.slabs.chunk_by(|slab, next| slab.dims == next.dims) {
            let nested = Nested::new(&slabs[0].dims, to);
            let token = Dim { n: 1, from: from.token, to: to.token };
            let spots = Spots::new(cut, &nested, token, head);
            out.reserve(spots.count(cut, &nested).saturating_mul(slabs.len() as u64));
            for slab in slabs {
                walk(nested.outer, slab.from, slab.to, &mut |from, to| {
                    spots.emit(cut, &nested, from, to, out)
                })?;
            }
        }
        Ok(())
    }
}

impl Spots {
    /// Runs that are alike share a shape: looked for among so many of the latest, which whole, first and last blocks need.
    const RECENT: usize = 4;

    fn new(cut: &Cut, nested: &Nested<'_>, token: Dim, head: u64) -> Self {
        let mut spots = Self { shapes: Vec::new(), spots: Vec::with_capacity(cut.runs.len()) };
        let mut keys: Vec<(Run, bool)> = Vec::new();
        for section in &cut.sections {
            let alone = section.len() == 1;
            for run in &cut.runs[section.clone()] {
                let key = (Run { from: 0, to: 0, ..*run }, alone);
                let recent = keys.len().saturating_sub(Self::RECENT);
                let known = keys[recent..].iter().position(|known| *known == key).map(|at| recent + at);
                let shape = known.unwrap_or_else(|| {
                    let between = if alone { nested.between } else { &[] };
                    let own = [run.blocks, run.pieces, Dim { n: run.tokens, ..token }];
                    spots
                        .shapes
                        .push(Shape::new(own.iter().chain(between).chain(nested.inner).copied(), head));
                    keys.push(key);
                    keys.len() - 1
                });
                spots.spots.push(Spot { from: run.from, to: run.to, shape });
            }
        }
        spots
    }

    /// Moves of one slab, before any are joined.
    fn count(&self, cut: &Cut, nested: &Nested<'_>) -> u64 {
        let product = |dims: &[Dim]| dims.iter().map(|dim| dim.n).product::<u64>();
        let of = |section: &Range<usize>| {
            let spots = &self.spots[section.clone()];
            let times = if spots.len() == 1 { 1 } else { product(nested.between) };
            times * spots.iter().map(|one| self.shapes[one.shape].count()).sum::<u64>()
        };
        product(nested.outer) * cut.sections.iter().map(of).sum::<u64>()
    }

    /// The moves of all sections, for the slab's planes and heads at `from` and `to`.
    fn emit(
        &self,
        cut: &Cut,
        nested: &Nested<'_>,
        from: Place,
        to: Place,
        out: &mut Out<'_>,
    ) -> Result<(), Unplannable> {
        for section in &cut.sections {
            let spots = &self.spots[section.clone()];
            if let [one] = spots {
                self.shapes[one.shape].emit(from.plus(one.from), to.plus(one.to), out)?;
                continue;
            }
            walk(nested.between, from, to, &mut |from, to| {
                let mut each = spots.iter();
                each.try_for_each(|one| {
                    self.shapes[one.shape].emit(from.plus(one.from), to.plus(one.to), out)
                })
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Layout, Share,
        models::{Model, Rank},
    };

    #[test]
    fn every_layout_comes_in_order_and_counted_without_sorting_or_growing() {
        let model = Model { layers: 3, ..Model::named("qwen3-30b-a3b").unwrap() };
        let ids = |blocks: u32| (0..blocks).map(|at| at * 5 % blocks).collect::<Vec<_>>();
        let rank = |layout, rank, size, block_size| {
            let rank = Rank {
                layout,
                share: Share { rank, size },
                layers: 0..3,
                block_size,
                blocks: 96 / block_size,
            };
            model.geometry(&rank).unwrap().0
        };
        // Miri takes minutes for each pair of them.
        let tried = if cfg!(miri) { 1 } else { Layout::NAMED.len() };
        let layouts = || Layout::NAMED.iter().take(tried).map(|(_, layout)| *layout);
        for (from, to) in layouts().flat_map(|from| layouts().map(move |to| (from, to))) {
            for ((there, here), (giver, taker)) in
                [((8, 8), (1, 1)), ((4, 8), (1, 2)), ((8, 4), (2, 1)), ((6, 4), (2, 2))]
            {
                let (source, destination) = (rank(from, 0, giver, there), rank(to, 0, taker, here));
                let pairing = Pairing::new(&source, &destination).unwrap();
                let (there, here) = (ids(96 / there), ids(96 / here));
                let listed = |side, steps: &[Steps], ids| Listed {
                    side,
                    group: 0,
                    steps: steps[0],
                    list: Blocks::all(ids),
                };
                let source = listed(Side::Source, &pairing.source, &there);
                let destination = listed(Side::Destination, &pairing.destination, &here);
                let tokens = Tokens { from: 3, to: 93, length: 93 };
                let cut = cut(&source, &destination, tokens, 0).unwrap();
                let mut moves = Vec::new();
                let mut out = Out { moves: &mut moves, most: usize::MAX, ascending: true };
                let exchange = &pairing.exchanges[0];
                exchange.emit(&cut, &source.steps, &destination.steps, &mut out).unwrap();
                assert!(out.ascending, "{from:?} to {to:?}");
                let (made, room) = (moves.len(), moves.capacity());
                assert!(
                    made <= room && room <= 2 * made,
                    "{from:?} to {to:?}: {made} moves in room for {room}"
                );
            }
        }
    }
}
