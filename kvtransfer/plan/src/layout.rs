//! The order of a cache's axes in memory, and the strides that follow from it when nothing is padded.

/// One axis of a cache; the numbers of a head are always the innermost and need no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Layers of a group.
    Layer,
    /// Keys, values.
    Plane,
    /// Blocks.
    Block,
    /// KV heads of this rank.
    Head,
    /// Tokens of a block.
    Token,
}

use Axis::{Block, Head, Layer, Plane, Token};

/// The axes from the outermost to the innermost, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout([Axis; 5]);

impl Layout {
    /// Keys and values as halves of a layer; in a block, head by head.
    pub const HND: Self = Self([Layer, Plane, Block, Head, Token]);
    /// Keys and values as halves of a layer; in a block, token by token.
    pub const NHD: Self = Self([Layer, Plane, Block, Token, Head]);
    /// Each block holds its keys, then its values, head by head.
    pub const BLOCK_HND: Self = Self([Layer, Block, Plane, Head, Token]);
    /// Each block holds its keys, then its values, token by token.
    pub const BLOCK_NHD: Self = Self([Layer, Block, Plane, Token, Head]);
    /// vLLM's HND of today: a head's value follows its key at once.
    pub const LBHNC: Self = Self([Layer, Block, Head, Token, Plane]);
    /// vLLM's NHD of today.
    pub const LBNHC: Self = Self([Layer, Block, Token, Head, Plane]);
    /// A layer's heads outside its blocks.
    pub const LHBNC: Self = Self([Layer, Head, Block, Token, Plane]);
    /// All layers of a block together, head by head in each.
    pub const BLHNC: Self = Self([Block, Layer, Head, Token, Plane]);
    /// All layers of a block together, token by token in each.
    pub const BLNHC: Self = Self([Block, Layer, Token, Head, Plane]);
    /// All layers of a head of a block together.
    pub const BHLNC: Self = Self([Block, Head, Layer, Token, Plane]);

    /// The layouts that have a name, as flags spell it.
    pub const NAMED: [(&'static str, Self); 10] = [
        ("hnd", Self::HND),
        ("nhd", Self::NHD),
        ("block-hnd", Self::BLOCK_HND),
        ("block-nhd", Self::BLOCK_NHD),
        ("lbhnc", Self::LBHNC),
        ("lbnhc", Self::LBNHC),
        ("lhbnc", Self::LHBNC),
        ("blhnc", Self::BLHNC),
        ("blnhc", Self::BLNHC),
        ("bhlnc", Self::BHLNC),
    ];

    /// Any order; `None` if an axis is there twice.
    pub fn new(outermost_first: [Axis; 5]) -> Option<Self> {
        let once = |axis| outermost_first.iter().filter(|&&other| other == axis).count() == 1;
        outermost_first.iter().all(|&axis| once(axis)).then_some(Self(outermost_first))
    }

    /// The layout of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.iter().find(|(known, _)| *known == name).map(|&(_, layout)| layout)
    }

    /// The axes, the outermost first.
    pub const fn axes(self) -> [Axis; 5] {
        self.0
    }

    /// The strides of `counts` without padding, heads of `head_bytes`; and the bytes of it all. `None` past `u64`.
    pub(crate) fn strides(self, counts: &Counts, head_bytes: u64) -> Option<(Strides, u64)> {
        let mut strides = Strides::default();
        let mut size = head_bytes;
        for axis in self.0.into_iter().rev() {
            let (stride, count) = match axis {
                Layer => (&mut strides.layer, counts.layers),
                Plane => (&mut strides.plane, counts.planes),
                Block => (&mut strides.block, counts.blocks),
                Head => (&mut strides.head, counts.heads),
                Token => (&mut strides.token, counts.tokens),
            };
            *stride = size;
            size = size.checked_mul(count)?;
        }
        Some((strides, size))
    }
}

/// How many of each there are in one tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub layers: u64,
    pub planes: u64,
    pub blocks: u64,
    pub heads: u64,
    pub tokens: u64,
}

/// Bytes from one of a thing to the next. The stride of what there is only one of does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Strides {
    /// Layer to layer, where they lie in one tensor.
    pub layer: u64,
    /// Keys to values, where they lie in one tensor.
    pub plane: u64,
    /// Block to block.
    pub block: u64,
    /// Head to head of this rank.
    pub head: u64,
    /// Token to token of a block.
    pub token: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_follow_the_order_of_the_axes() {
        let counts = Counts { layers: 4, planes: 2, blocks: 8192, heads: 4, tokens: 32 };
        let (strides, bytes) = Layout::LBHNC.strides(&counts, 64 * 2).unwrap();
        // As a running vLLM engine had it: 4 layers of 8,192 blocks, 32 tokens of 4 heads of 64 bfloat16.
        assert_eq!((strides.layer, strides.block), (268_435_456, 32_768));
        assert_eq!((strides.head, strides.token, strides.plane), (8_192, 256, 128));
        assert_eq!(bytes, 1 << 30);
    }

    #[test]
    fn each_axis_is_there_once_and_names_are_found() {
        assert_eq!(Layout::new([Layer, Layer, Block, Head, Token]), None);
        for (name, layout) in Layout::NAMED {
            assert_eq!(Layout::new(layout.axes()), Some(layout));
            assert_eq!(Layout::named(name), Some(layout));
        }
        assert_eq!(Layout::named("HND"), None, "as flags spell it");
    }

    #[test]
    fn a_size_past_all_addresses_is_refused() {
        let counts = Counts { layers: 1 << 20, planes: 2, blocks: 1 << 32, heads: 1 << 10, tokens: 1 << 10 };
        assert_eq!(Layout::HND.strides(&counts, 256), None);
    }
}
