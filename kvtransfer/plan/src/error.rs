//! Why nothing was planned: a geometry that cannot be, two that do not fit, block lists that do not hold the tokens.

use std::{error::Error, fmt};

use crate::{Dtype, Planes};

/// Who gives and who gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Has the blocks.
    Source,
    /// Wants them.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// What is wrong with one geometry. It may have come from a peer, so that nothing of it is taken for granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// A count that must be between 1 and a limit.
    Count {
        /// Of what.
        what: &'static str,
        /// What was given.
        given: u64,
        /// The most there may be.
        most: u64,
    },
    /// The rank's layers do not lie in the model's.
    Range {
        /// The rank's first.
        from: u32,
        /// The one after its last.
        to: u32,
        /// The model's.
        layers: u32,
    },
    /// A group names a layer that is not the rank's, or that is named twice.
    Layer(u32),
    /// The TP size neither divides the heads nor is a multiple of them, or the rank is not below the size.
    Share {
        /// KV heads of the model.
        heads: u32,
        /// The rank.
        rank: u32,
        /// The size.
        size: u32,
    },
    /// Not as many tensors as there are layers (or layers and planes).
    Tensors {
        /// What was given.
        given: usize,
        /// What its layers make.
        expected: usize,
    },
    /// By these strides, two heads' bytes would overlap.
    Strides,
    /// Some byte lies further into its region than [`MAX_EXTENT`](crate::MAX_EXTENT).
    Extent,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { what, given, most } => write!(f, "{given} {what}: must be 1 to {most}"),
            Self::Range { from, to, layers } => {
                write!(f, "layers {from} to {to} are not of a model of {layers} layers")
            }
            Self::Layer(layer) => {
                write!(f, "layer {layer} is in two groups, twice in one, or not this rank's")
            }
            Self::Share { heads, rank, size } => {
                write!(f, "{heads} KV heads cannot be shared out to TP rank {rank} of {size}")
            }
            Self::Tensors { given, expected } => {
                write!(f, "{given} tensors given, but the layers make {expected}")
            }
            Self::Strides => f.write_str("strides let different tokens or heads share bytes"),
            Self::Extent => f.write_str("offsets and strides reach past any region"),
        }
    }
}

impl Error for Flaw {}

/// Why two ranks cannot exchange blocks: both must serve the same model, cached in the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mismatch {
    /// A geometry that cannot be.
    Flawed {
        /// Whose.
        side: Side,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// The models have different numbers of layers.
    Layers {
        /// At the source.
        source: u32,
        /// At the destination.
        destination: u32,
    },
    /// Both ranks run the layer, only one caches it.
    Uncached {
        /// The layer.
        layer: u32,
        /// Who does not.
        side: Side,
    },
    /// Keys and values at one side, latents at the other.
    Planes {
        /// The first layer that differs.
        layer: u32,
        /// At the source.
        source: Planes,
        /// At the destination.
        destination: Planes,
    },
    /// Different numbers of KV heads, over all ranks.
    Heads {
        /// The first layer that differs.
        layer: u32,
        /// At the source.
        source: u32,
        /// At the destination.
        destination: u32,
    },
    /// Heads of different size.
    HeadDim {
        /// The first layer that differs.
        layer: u32,
        /// At the source.
        source: u32,
        /// At the destination.
        destination: u32,
    },
    /// Numbers of different type.
    Dtype {
        /// The first layer that differs.
        layer: u32,
        /// At the source.
        source: Dtype,
        /// At the destination.
        destination: Dtype,
    },
    /// Windows of different size, or only one of them.
    Window {
        /// The first layer that differs.
        layer: u32,
        /// At the source, in tokens.
        source: Option<u32>,
        /// At the destination.
        destination: Option<u32>,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differ =
            |f: &mut fmt::Formatter<'_>, what, layer, source: &dyn fmt::Display, to: &dyn fmt::Display| {
                write!(f, "the {what} of layer {layer} differ: source {source}, destination {to}")
            };
        match self {
            Self::Flawed { side, flaw } => write!(f, "the {side}'s geometry: {flaw}"),
            Self::Layers { source, destination } => {
                write!(f, "the models' layers differ: source {source}, destination {destination}")
            }
            Self::Uncached { layer, side } => {
                write!(f, "layer {layer} is not cached at the {side}, but at its peer")
            }
            Self::Planes { layer, source, destination } => differ(f, "planes", layer, source, destination),
            Self::Heads { layer, source, destination } => differ(f, "KV heads", layer, source, destination),
            Self::HeadDim { layer, source, destination } => {
                differ(f, "head sizes", layer, source, destination)
            }
            Self::Dtype { layer, source, destination } => {
                differ(f, "cache types", layer, source, destination)
            }
            Self::Window { layer, source, destination } => {
                let tokens = |window: &Option<u32>| window.map_or("none".into(), |tokens| tokens.to_string());
                differ(f, "windows", layer, &tokens(source), &tokens(destination))
            }
        }
    }
}

impl Error for Mismatch {}

/// Why the blocks of a sequence give no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unplannable {
    /// Not one block list for each group.
    Groups {
        /// Whose lists.
        side: Side,
        /// How many were given.
        given: usize,
        /// The geometry's groups.
        expected: usize,
    },
    /// The range ends before it begins, or after the sequence does.
    Tokens {
        /// The first token.
        from: u64,
        /// The one after the last.
        to: u64,
        /// The sequence's.
        length: u64,
    },
    /// A wanted token's block is not in the list.
    Short {
        /// Whose list.
        side: Side,
        /// Of which of its groups.
        group: usize,
        /// The missing block, counted from the sequence's begin.
        block: u64,
    },
    /// A block id past the cache's end.
    NoBlock {
        /// Whose list.
        side: Side,
        /// Of which of its groups.
        group: usize,
        /// The id.
        id: u32,
        /// The blocks there are.
        blocks: u32,
    },
    /// A destination's block would get two different runs of tokens.
    Twice {
        /// Of which of the destination's groups.
        group: usize,
        /// The id.
        id: u32,
    },
    /// Two groups' blocks, or two tensors, share this byte of the destination.
    Shared {
        /// The region.
        region: u32,
        /// The byte.
        offset: u64,
    },
    /// More moves than asked for: plan fewer tokens at a time.
    TooMany {
        /// The most that were asked for.
        most: usize,
    },
}

impl fmt::Display for Unplannable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Groups { side, given, expected } => {
                write!(f, "the {side} gave {given} block lists, but has {expected} KV groups")
            }
            Self::Tokens { from, to, length } => {
                write!(f, "tokens {from} to {to} are no range of a sequence of {length} tokens")
            }
            Self::Short { side, group, block } => {
                write!(f, "the {side}'s list for group {group} lacks the sequence's block {block}")
            }
            Self::NoBlock { side, group, id, blocks } => {
                write!(f, "the {side}'s list for group {group} names block {id} of {blocks}")
            }
            Self::Twice { group, id } => {
                write!(f, "the destination's list for group {group} names block {id} for two runs of tokens")
            }
            Self::Shared { region, offset } => {
                write!(f, "byte {offset} of the destination's region {region} would be written twice")
            }
            Self::TooMany { most } => {
                write!(f, "more than {most} moves: plan fewer tokens at a time, or use layouts that agree")
            }
        }
    }
}

impl Error for Unplannable {}
