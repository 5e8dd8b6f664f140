//! A sequence of a real model: which blocks of the prefill engine's cache go where in the decode engine's, as the plan
//! makes it from both geometries.

use std::fmt::Write as _;

use kvferry_plan::models::{MODELS, Model, Rank};
use kvferry_plan::{Blocks, Dtype, Geometry, Layout, Pairing, Share, Tokens};
use serde::{Deserialize, Serialize};

use kvferry_bench_common::Result;

use crate::pattern::{MAX_EXTENT, MAX_SEGMENTS, Order, Piece, Pieces};
use crate::random::Random;

/// The longest sequence: the longest context that models in use take is 10 M tokens.
const MAX_TOKENS: u64 = 16 << 20;

/// How one side's ranks share the model, as in `4` or, for another rank than the first, `4/1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rankage {
    /// Ranks that the heads are split over.
    pub size: u32,
    /// Which of them this side is.
    pub rank: u32,
}

/// A sequence whose cache moves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    /// The model, as kvferry-plan spells it.
    pub model: String,
    /// Whether its cache is of one byte a number instead of two.
    pub fp8: bool,
    /// Tokens.
    pub tokens: u64,
    /// Tokens of a block: (at the giving side, at the taking side).
    pub block_size: (u32, u32),
    /// Memory order: (giving side, taking side).
    pub layout: (String, String),
    /// How heads are split: (giving side, taking side).
    pub tp: (Rankage, Rankage),
    /// How the sequence's blocks lie in each cache.
    pub order: Order,
}

impl Sequence {
    /// In words.
    pub fn describe(&self) -> String {
        let Self { model, tokens, block_size, layout, tp, .. } = self;
        let mut text = format!("{model}{}, {tokens} tokens", if self.fp8 { " (fp8)" } else { "" });
        let pair = |one: String, other: String| if one == other { one } else { format!("{one} to {other}") };
        let sizes = pair(block_size.0.to_string(), block_size.1.to_string());
        write!(text, " in blocks of {sizes}, {}", pair(layout.0.clone(), layout.1.clone()))
            .expect("writing to a String cannot fail");
        if tp.0.size != 1 || tp.1.size != 1 {
            let rank = |tp: Rankage| format!("{}/{}", tp.size, tp.rank);
            write!(text, ", TP {}", pair(rank(tp.0), rank(tp.1))).expect("writing to a String cannot fail");
        }
        format!("{text}, {}", format!("{:?}", self.order).to_lowercase())
    }

    /// The pieces: from the driven side to the driving one if `reads`, else the other way.
    ///
    /// # Errors
    /// When there is no such model, layout or rank, or it is more than the bounds.
    pub fn pieces(&self, reads: bool) -> Result<Pieces> {
        if !(1..=MAX_TOKENS).contains(&self.tokens) {
            return Err(format!("{} tokens: there must be 1 to {MAX_TOKENS}", self.tokens).into());
        }
        let (giver, given) = self.side(self.block_size.0, &self.layout.0, self.tp.0)?;
        let (taker, taken) = self.side(self.block_size.1, &self.layout.1, self.tp.1)?;
        let pairing = Pairing::new(&giver, &taker)?;
        let (there, here) = (self.ids(self.block_size.0, 1), self.ids(self.block_size.1, 2));
        let lists = |ids, groups| vec![Blocks::all(ids); groups];
        let most = usize::try_from(MAX_SEGMENTS).expect("a bound that fits every usize");
        let moves = pairing.plan(
            &lists(&there, giver.groups.len()),
            &lists(&here, taker.groups.len()),
            Tokens::all(self.tokens),
            most,
        )?;
        if moves.is_empty() {
            return Err("nothing flows between these two ranks; the taking one has it all from others".into());
        }
        let piece = |one: kvferry_plan::Move| {
            let (from, to) = (one.from.offset, one.to.offset);
            let (local, remote) = if reads { (to, from) } else { (from, to) };
            Piece { local, remote, len: one.len }
        };
        let (local_extent, remote_extent) = if reads { (taken, given) } else { (given, taken) };
        Ok(Pieces { list: moves.into_iter().map(piece).collect(), local_extent, remote_extent })
    }

    fn blocks(&self, size: u32) -> Result<u32> {
        let blocks = if size == 0 { 0 } else { self.tokens.div_ceil(size.into()) };
        let spare = if self.order == Order::Strided { 2 } else { 1 };
        // One more than the sequence has: else layers would be neighbours, too, which they are in no engine's cache.
        u32::try_from(blocks * spare + 1).ok().filter(|blocks| *blocks > 1).ok_or_else(|| {
            format!("blocks of {size} tokens: there must be 1 or more, and fewer than 2^32 blocks").into()
        })
    }

    fn side(&self, block_size: u32, layout: &str, tp: Rankage) -> Result<(Geometry, u64)> {
        let model = Model::named(&self.model).ok_or_else(|| {
            let known = MODELS.map(|model| model.name).join(", ");
            format!("no model {:?}; known: {known}", self.model)
        })?;
        let model = if self.fp8 { model.cached_as(Dtype::F8E4m3) } else { model };
        let layout = Layout::named(layout).ok_or_else(|| {
            let known = Layout::NAMED.map(|(name, _)| name).join(", ");
            format!("no layout {layout:?}; known: {known}")
        })?;
        let rank = Rank {
            layout,
            share: Share { rank: tp.rank, size: tp.size },
            layers: 0..model.layers,
            block_size,
            blocks: self.blocks(block_size)?,
        };
        let (geometry, bytes) = model.geometry(&rank)?;
        if bytes > MAX_EXTENT {
            return Err(format!("a cache of {bytes} bytes is more than any machine has").into());
        }
        Ok((geometry, bytes))
    }

    fn ids(&self, block_size: u32, seed: u64) -> Vec<u32> {
        let count = self.tokens.div_ceil(block_size.into());
        let id = |slot: u64| u32::try_from(slot).expect("as many blocks as the geometry was made with");
        match self.order {
            Order::Strided => (0..count).map(|slot| id(slot * 2)).collect(),
            Order::Shuffled => Random::new(seed).shuffled(count).into_iter().map(id).collect(),
            Order::Backwards if seed == 1 => (0..count).rev().map(id).collect(),
            Order::Contiguous | Order::Backwards => (0..count).map(id).collect(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// 8,192 tokens in blocks of 16, keys and values apart, no TP.
    pub(crate) fn sequence(model: &str, order: Order) -> Sequence {
        let whole = Rankage { size: 1, rank: 0 };
        Sequence {
            model: model.into(),
            fp8: false,
            tokens: 8192,
            block_size: (16, 16),
            layout: ("hnd".into(), "hnd".into()),
            tp: (whole, whole),
            order,
        }
    }

    #[test]
    fn counts_and_bytes_are_those_of_published_shapes() {
        for (model, segments, bytes) in [
            ("llama-3.1-70b", 81_920, 8192 * 327_680),
            ("llama-3.1-8b", 32_768, 8192 * 131_072),
            ("deepseek-v3", 31_232, 8192 * 70_272),
        ] {
            let pieces = sequence(model, Order::Backwards).pieces(true).unwrap();
            assert_eq!((pieces.list.len(), pieces.bytes()), (segments, bytes), "{model}");
            assert!(pieces.list.iter().all(|piece| piece.remote + piece.len <= pieces.remote_extent));
        }
    }

    #[test]
    fn a_fresh_cache_takes_a_segment_for_each_plane_of_each_layer() {
        let pieces = sequence("llama-3.1-70b", Order::Contiguous).pieces(true).unwrap();
        assert_eq!(pieces.list.len(), 160);
        let fp8 = Sequence { fp8: true, ..sequence("llama-3.1-70b", Order::Contiguous) };
        assert_eq!(fp8.pieces(true).unwrap().bytes() * 2, pieces.bytes());
    }

    #[test]
    fn ranks_that_differ_move_only_what_both_have() {
        let tp = (Rankage { size: 4, rank: 1 }, Rankage { size: 8, rank: 2 });
        let split = Sequence { tp, ..sequence("llama-3.1-8b", Order::Contiguous) };
        assert_eq!(split.pieces(true).unwrap().bytes(), 8192 * 131_072 / 8);
        let foreign = Sequence { tp: (tp.0, Rankage { size: 8, rank: 7 }), ..split };
        assert!(foreign.pieces(true).unwrap_err().to_string().contains("nothing flows"));
    }

    #[test]
    fn the_giving_side_is_the_driven_one_of_a_read_and_the_driving_one_of_a_write() {
        let sizes = Sequence { block_size: (64, 16), ..sequence("llama-3.1-8b", Order::Contiguous) };
        let (read, write) = (sizes.pieces(true).unwrap(), sizes.pieces(false).unwrap());
        assert_eq!((read.local_extent, read.remote_extent), (write.remote_extent, write.local_extent));
        assert_ne!(read.local_extent, read.remote_extent);
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let refused = |sequence: Sequence| sequence.pieces(true).unwrap_err().to_string();
        assert!(refused(sequence("gpt-2", Order::Contiguous)).contains("qwen3-8b"));
        let good = || sequence("llama-3.1-8b", Order::Contiguous);
        assert!(refused(Sequence { layout: ("hnd".into(), "xyz".into()), ..good() }).contains("block-nhd"));
        assert!(refused(Sequence { tokens: 0, ..good() }).contains("tokens"));
        assert!(refused(Sequence { block_size: (0, 16), ..good() }).contains("blocks of 0"));
    }
}
