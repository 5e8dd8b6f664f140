//! Strides turned into moves, in ascending order of the destination, each as long as it can be.

use crate::{Move, Place, Unplannable, slab::Dim};

/// Moves as they are found; joined with the one before where both sides go on.
pub(crate) struct Out<'a> {
    pub moves: &'a mut Vec<Move>,
    /// The most there may be.
    pub most: usize,
    /// Whether they came in ascending order so far, without overlap.
    pub ascending: bool,
}

impl Out<'_> {
    /// Makes room for `more`, joined or not.
    pub(crate) fn reserve(&mut self, more: u64) {
        let room = self.most.saturating_sub(self.moves.len());
        self.moves.reserve(usize::try_from(more).unwrap_or(room).min(room));
    }

    fn push(&mut self, next: Move) -> Result<(), Unplannable> {
        if let Some(last) = self.moves.last_mut() {
            if last.joins(&next) {
                last.len += next.len;
                return Ok(());
            }
            self.ascending &= last.precedes(&next);
        }
        if self.moves.len() >= self.most {
            return Err(Unplannable::TooMany { most: self.most });
        }
        self.moves.push(next);
        Ok(())
    }

    /// Puts moves that did not come in ascending order into it, and joins what is then side by side.
    pub(crate) fn finish(self) -> Result<(), Unplannable> {
        if self.ascending {
            return Ok(());
        }
        // They came as a few ascending runs, which a stable sort finds and merges.
        self.moves.sort_by_key(|one| one.to);
        if let Some(pair) = self.moves.windows(2).find(|pair| !pair[0].precedes(&pair[1])) {
            let Place { region, offset } = pair[1].to;
            return Err(Unplannable::Shared { region, offset });
        }
        self.moves.dedup_by(|next, last| {
            let joins = last.joins(next);
            if joins {
                last.len += next.len;
            }
            joins
        });
        Ok(())
    }
}

/// What is the same for many places: `len` bytes, repeated along `dims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    dims: Vec<Dim>,
    len: u64,
}

impl Shape {
    /// `len` bytes repeated along `dims`, in any order: the innermost are taken into `len` where both sides go on.
    pub(crate) fn new(dims: impl IntoIterator<Item = Dim>, mut len: u64) -> Self {
        let mut dims: Vec<_> = dims.into_iter().filter(|dim| dim.n > 1).collect();
        dims.sort_unstable_by_key(|dim| std::cmp::Reverse(dim.to));
        while let Some(inner) = dims.pop_if(|dim| dim.from == len && dim.to == len) {
            len *= inner.n;
        }
        Self { dims, len }
    }

    /// Moves of one of them.
    pub(crate) fn count(&self) -> u64 {
        self.dims.iter().map(|dim| dim.n).product()
    }

    /// The moves of the one at `from` and `to`.
    pub(crate) fn emit(&self, from: Place, to: Place, out: &mut Out<'_>) -> Result<(), Unplannable> {
        walk(&self.dims, from, to, &mut |from, to| out.push(Move { from, to, len: self.len }))
    }
}

/// Visits all places along `dims`, the last of them fastest.
pub(crate) fn walk<E>(
    dims: &[Dim],
    from: Place,
    to: Place,
    visit: &mut impl FnMut(Place, Place) -> Result<(), E>,
) -> Result<(), E> {
    let at = |dim: &Dim, i: u64| {
        let source = Place { offset: from.offset.wrapping_add(i.wrapping_mul(dim.from)), ..from };
        (source, to.plus(i * dim.to))
    };
    match dims {
        [] => visit(from, to),
        [inner] => (0..inner.n).map(|i| at(inner, i)).try_for_each(|(from, to)| visit(from, to)),
        [outer, rest @ ..] => {
            (0..outer.n).map(|i| at(outer, i)).try_for_each(|(from, to)| walk(rest, from, to, visit))
        }
    }
}
