//! A sequence's tokens, cut wherever a block ends on either side, and the pieces put together again where they repeat
//! regularly: mostly there is one run of whole blocks, and a last one that is not full.

use std::ops::Range;

use crate::{Side, Unplannable, pairing::Steps, slab::Dim};

/// The blocks of a sequence in one group, in the order of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks<'a> {
    /// How many of the sequence's blocks come before the first one here; 0 if the list begins with the sequence. A group
    /// with a window may list only its tail.
    pub first: u64,
    /// Block ids.
    pub ids: &'a [u32],
}

impl<'a> Blocks<'a> {
    /// A list that begins with the sequence.
    pub const fn all(ids: &'a [u32]) -> Self {
        Self { first: 0, ids }
    }

    /// The id of the sequence's block number `block`.
    fn id(&self, block: u64) -> Option<u32> {
        let index = usize::try_from(block.checked_sub(self.first)?).ok()?;
        self.ids.get(index).copied()
    }
}

/// Which tokens of a sequence, counted from its begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// The first one wanted: the destination's own cached prefix ends here.
    pub from: u64,
    /// The one after the last one wanted: so much is ready.
    pub to: u64,
    /// The first one that the destination computes itself, once all transfers of the sequence are done: what its layers with
    /// a window no longer see from there is not moved, whichever range is wanted now.
    pub length: u64,
}

impl Tokens {
    /// All `length` tokens of a sequence.
    pub const fn all(length: u64) -> Self {
        Self { from: 0, to: length, length }
    }
}

/// One group's blocks at one side.
#[derive(Clone, Copy)]
pub(crate) struct Listed<'a> {
    pub side: Side,
    pub group: usize,
    pub steps: Steps,
    pub list: Blocks<'a>,
}

impl Listed<'_> {
    fn id(&self, block: u64) -> Result<u32, Unplannable> {
        let Self { side, group, .. } = *self;
        let id = self.list.id(block).ok_or(Unplannable::Short { side, group, block })?;
        let blocks = self.steps.blocks;
        if id < blocks { Ok(id) } else { Err(Unplannable::NoBlock { side, group, id, blocks }) }
    }

    fn size(&self) -> u64 {
        self.steps.size.into()
    }
}

/// Consecutive tokens in one block of either side.
#[derive(Clone, Copy)]
struct Piece {
    /// The destination's block, and the token in it.
    block: u32,
    token: u64,
    tokens: u64,
    /// Bytes from the source's block 0.
    from: u64,
}

/// Pieces that repeat regularly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Bytes from block 0 to the first piece.
    pub from: u64,
    pub to: u64,
    /// Blocks of the destination, one after the other.
    pub blocks: Dim,
    /// Pieces in each of them, one after the other, each from another block of the source.
    pub pieces: Dim,
    /// Tokens of each piece.
    pub tokens: u64,
}

impl Run {
    fn new(piece: &Piece, from: &Steps, to: &Steps) -> Self {
        Self {
            from: piece.from,
            to: u64::from(piece.block) * to.block + piece.token * to.token,
            blocks: Dim { n: 1, from: 0, to: to.block },
            pieces: Dim { n: 1, from: from.block, to: piece.tokens * to.token },
            tokens: piece.tokens,
        }
    }

    /// Makes `next`, a later piece of the same block of the destination, the last of this run if it follows regularly.
    fn extend_piece(&mut self, next: &Self) -> bool {
        let Dim { n, from, to } = self.pieces;
        let follows = next.tokens == self.tokens
            && next.to.wrapping_sub(self.to) == n * to
            && next.from.wrapping_sub(self.from) == n * from;
        self.pieces.n += u64::from(follows);
        follows
    }

    /// Makes `next`, in the next block of the destination, the last of this run if it follows regularly.
    fn extend_block(&mut self, next: &Self, token: u64) -> bool {
        let n = self.blocks.n;
        let step = next.from.wrapping_sub(self.from);
        // Any two are at a regular distance: only those that go on in the same block, or in the next ones, are meant.
        if n == 1 && (step == self.pieces.n * self.pieces.from || step == self.tokens * token) {
            self.blocks.from = step;
        }
        let follows = (next.tokens, next.pieces) == (self.tokens, self.pieces)
            && next.to.wrapping_sub(self.to) == n * self.blocks.to
            && step == n * self.blocks.from;
        self.blocks.n += u64::from(follows);
        follows
    }
}

/// Runs in ascending order of the destination. Sections of several runs are single blocks of the destination whose pieces
/// do not repeat regularly.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub runs: Vec<Run>,
    pub sections: Vec<Range<usize>>,
}

/// Cuts `tokens` of a group with `seen` its first token that is still seen.
pub(crate) fn cut(from: &Listed<'_>, to: &Listed<'_>, tokens: Tokens, seen: u64) -> Result<Cut, Unplannable> {
    let pieces = pieces(from, to, tokens, seen)?;
    let mut cut = Cut::default();
    for block in pieces.chunk_by(|piece, next| piece.block == next.block) {
        let begin = cut.runs.len();
        for piece in block {
            let run = Run::new(piece, &from.steps, &to.steps);
            let extended = cut.runs[begin..].last_mut().is_some_and(|last| last.extend_piece(&run));
            if !extended {
                cut.runs.push(run);
            }
        }
        let before = cut.sections.last().filter(|section| section.len() == 1).map(|section| section.start);
        if let (Some(before), [run]) = (before, &cut.runs[begin..]) {
            let run = *run;
            if cut.runs[before].extend_block(&run, from.steps.token) {
                cut.runs.truncate(begin);
                continue;
            }
        }
        cut.sections.push(begin..cut.runs.len());
    }
    Ok(cut)
}

/// The pieces, in ascending order of the destination, no two of them overlapping.
fn pieces(from: &Listed<'_>, to: &Listed<'_>, tokens: Tokens, seen: u64) -> Result<Vec<Piece>, Unplannable> {
    // A block that is still seen in part is there as a whole, on the side whose block it is: the later of the two begins
    // is where whole blocks begin on both.
    let whole = (seen - seen % from.size()).max(seen - seen % to.size());
    let mut at = tokens.from.max(whole);
    let mut pieces = Vec::new();
    while at < tokens.to {
        let (there, here) = (at % from.size(), at % to.size());
        let id = from.id(at / from.size())?;
        let piece = Piece {
            block: to.id(at / to.size())?,
            token: here,
            tokens: (from.size() - there).min(to.size() - here).min(tokens.to - at),
            from: u64::from(id) * from.steps.block + there * from.steps.token,
        };
        at += piece.tokens;
        pieces.push(piece);
    }
    let key = |piece: &Piece| (piece.block, piece.token);
    if !pieces.is_sorted_by_key(key) {
        pieces.sort_unstable_by_key(key);
    }
    let overlap =
        |pair: &[Piece]| pair[0].block == pair[1].block && pair[0].token + pair[0].tokens > pair[1].token;
    match pieces.windows(2).find(|pair| overlap(pair)) {
        Some(pair) => Err(Unplannable::Twice { group: to.group, id: pair[0].block }),
        None => Ok(pieces),
    }
}
