//! How the blocks of one rank lie in its regions. A geometry comes from an engine or over the wire: it is checked once,
//! when it is paired, so that no sum over it can overflow and no two of its bytes are the same.

use std::ops::Range;

use crate::{Attention, Flaw, Layout, Place, Share, Strides, layout::Counts};

/// The most groups of a geometry: hybrid models have a handful, one for each way that layers see tokens.
pub const MAX_GROUPS: u32 = 64;

/// The most layers of a model: the deepest in use have some 130.
pub const MAX_LAYERS: u32 = 4096;

/// The furthest a byte may lie into its region: no machine maps more, and sums of two stay far from overflow.
pub const MAX_EXTENT: u64 = 1 << 56;

/// The most tokens of a block: state-aligned blocks of hybrid models have some thousands.
const MAX_BLOCK_SIZE: u32 = 1 << 20;

/// The most KV heads, numbers of a head, and TP ranks: an order of magnitude above any model's.
const MAX_WIDTH: u32 = 1 << 16;

/// One rank's KV cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Layers of the whole model.
    pub model_layers: u32,
    /// Those this rank runs, cached or not (pipeline parallel: one side's ranks split them without overlap).
    pub layers: Range<u32>,
    /// Which of their heads (tensor parallel).
    pub share: Share,
    /// The layers that are cached, by what shares block lists.
    pub groups: Vec<Group>,
}

/// Layers that share block lists: a block id names a block in each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What they cache.
    pub attention: Attention,
    /// Their numbers in the model, in the order of `tensors`.
    pub layers: Vec<u32>,
    /// Where they begin.
    pub tensors: Tensors,
    /// From one thing to the next.
    pub strides: Strides,
    /// Tokens of a block.
    pub block_size: u32,
    /// Blocks: ids are below this.
    pub blocks: u32,
}

/// Where block 0 of each layer begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tensors {
    /// All layers in one tensor that begins here, by the layer stride.
    Stacked(Place),
    /// A tensor for each layer.
    Each(Vec<Place>),
    /// Two tensors for each layer: its keys', then its values'.
    Split(Vec<Place>),
}

/// A group without padding, before it has a place.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The memory order.
    pub layout: Layout,
    /// What is cached.
    pub attention: Attention,
    /// The layers' numbers in the model.
    pub layers: Vec<u32>,
    /// Which of the heads.
    pub share: Share,
    /// Tokens of a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u32,
}

impl Packed {
    /// All layers in one tensor at `first`, and the tensor's bytes.
    ///
    /// # Errors
    /// [`Flaw::Share`] if the heads do not divide, [`Flaw::Extent`] if it would be larger than any memory.
    pub fn stacked(self, first: Place) -> Result<(Group, u64), Flaw> {
        let layers = self.layers.len() as u64;
        self.group(Tensors::Stacked(first), layers, true)
    }

    /// A tensor for each layer, and the bytes of each; the layout's order of layers does not matter.
    ///
    /// # Errors
    /// As for [`stacked`](Self::stacked).
    pub fn each(self, places: Vec<Place>) -> Result<(Group, u64), Flaw> {
        self.group(Tensors::Each(places), 1, true)
    }

    /// A tensor for each plane of each layer, and the bytes of each; the layout's order of those does not matter.
    ///
    /// # Errors
    /// As for [`stacked`](Self::stacked).
    pub fn split(self, places: Vec<Place>) -> Result<(Group, u64), Flaw> {
        self.group(Tensors::Split(places), 1, false)
    }

    fn group(self, tensors: Tensors, layers: u64, planes: bool) -> Result<(Group, u64), Flaw> {
        let Self { attention, share, .. } = self;
        if !share.divides(attention.heads) {
            return Err(Flaw::Share { heads: attention.heads, rank: share.rank, size: share.size });
        }
        let counts = Counts {
            layers,
            planes: if planes { attention.planes.count().into() } else { 1 },
            blocks: self.blocks.into(),
            heads: share.heads(attention.heads).len() as u64,
            tokens: self.block_size.into(),
        };
        let (strides, bytes) = self.layout.strides(&counts, attention.head_bytes()).ok_or(Flaw::Extent)?;
        let Self { layers, block_size, blocks, .. } = self;
        Ok((Group { attention, layers, tensors, strides, block_size, blocks }, bytes))
    }
}

impl Group {
    /// Where plane `plane` of the `index`-th layer begins: its first block, head and token.
    pub(crate) fn place(&self, index: usize, plane: u32) -> Place {
        let within = || u64::from(plane) * self.strides.plane;
        match &self.tensors {
            Tensors::Stacked(first) => first.plus(index as u64 * self.strides.layer + within()),
            Tensors::Each(places) => places[index].plus(within()),
            Tensors::Split(places) => places[index * self.attention.planes.count() as usize + plane as usize],
        }
    }

    /// What one tensor holds: counts and strides of its axes, without those that it has only one of.
    fn axes(&self, heads: usize) -> impl Iterator<Item = (u64, u64)> {
        let (layers, planes) = match &self.tensors {
            Tensors::Stacked(_) => (self.layers.len() as u64, self.attention.planes.count()),
            Tensors::Each(_) => (1, self.attention.planes.count()),
            Tensors::Split(_) => (1, 1),
        };
        let Strides { layer, plane, block, head, token } = self.strides;
        [
            (layers, layer),
            (planes.into(), plane),
            (self.blocks.into(), block),
            (heads as u64, head),
            (self.block_size.into(), token),
        ]
        .into_iter()
        .filter(|&(count, _)| count > 1)
    }

    /// Bytes from a tensor's first to the one after its last, if the axes nest: each stride passes all that lies inside.
    fn tensor_bytes(&self, heads: usize) -> Result<u64, Flaw> {
        let mut axes: Vec<_> = self.axes(heads).collect();
        axes.sort_unstable_by_key(|&(_, stride)| stride);
        let mut extent = self.attention.head_bytes();
        for (count, stride) in axes {
            if stride < extent {
                return Err(Flaw::Strides);
            }
            extent = stride
                .checked_mul(count - 1)
                .and_then(|steps| steps.checked_add(extent))
                .filter(|&extent| extent <= MAX_EXTENT)
                .ok_or(Flaw::Extent)?;
        }
        Ok(extent)
    }

    /// Where each tensor begins.
    fn firsts(&self) -> &[Place] {
        match &self.tensors {
            Tensors::Stacked(first) => std::slice::from_ref(first),
            Tensors::Each(places) | Tensors::Split(places) => places,
        }
    }

    fn check(&self, share: Share) -> Result<(), Flaw> {
        let Attention { planes, heads, head_dim, window, .. } = self.attention;
        count("layers of a group", self.layers.len() as u64, MAX_LAYERS)?;
        count("KV heads", heads.into(), MAX_WIDTH)?;
        count("numbers of a head", head_dim.into(), MAX_WIDTH)?;
        count("tokens of a window", window.unwrap_or(1).into(), u32::MAX)?;
        count("tokens of a block", self.block_size.into(), MAX_BLOCK_SIZE)?;
        count("blocks", self.blocks.into(), u32::MAX)?;
        if !share.divides(heads) {
            return Err(Flaw::Share { heads, rank: share.rank, size: share.size });
        }
        let expected = match &self.tensors {
            Tensors::Stacked(_) => 1,
            Tensors::Each(_) => self.layers.len(),
            Tensors::Split(_) => self.layers.len() * planes.count() as usize,
        };
        let firsts = self.firsts();
        if firsts.len() != expected {
            return Err(Flaw::Tensors { given: firsts.len(), expected });
        }
        let bytes = self.tensor_bytes(share.heads(heads).len())?;
        let past = |first: &Place| first.offset > MAX_EXTENT - bytes;
        if firsts.iter().any(past) { Err(Flaw::Extent) } else { Ok(()) }
    }
}

impl Geometry {
    /// Whether it can be at all. [`Pairing::new`](crate::Pairing::new) asks this of both sides.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self) -> Result<(), Flaw> {
        let Range { start: from, end: to } = self.layers;
        count("layers of the model", self.model_layers.into(), MAX_LAYERS)?;
        count("ranks", self.share.size.into(), MAX_WIDTH)?;
        count("KV groups", self.groups.len() as u64, MAX_GROUPS)?;
        if from >= to || to > self.model_layers {
            return Err(Flaw::Range { from, to, layers: self.model_layers });
        }
        let mut seen = vec![false; self.model_layers as usize];
        for group in &self.groups {
            group.check(self.share)?;
            for &layer in &group.layers {
                if !self.layers.contains(&layer) || std::mem::replace(&mut seen[layer as usize], true) {
                    return Err(Flaw::Layer(layer));
                }
            }
        }
        Ok(())
    }

    /// The byte after the last of every tensor: each must lie in its region, which only the region's owner can tell.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn ends(&self) -> Result<Vec<Place>, Flaw> {
        self.check()?;
        let mut ends = Vec::new();
        for group in &self.groups {
            let bytes = group.tensor_bytes(self.share.heads(group.attention.heads).len())?;
            ends.extend(group.firsts().iter().map(|first| first.plus(bytes)));
        }
        Ok(ends)
    }

    /// For each layer of the model, the group that caches it and its index there.
    pub(crate) fn cached(&self) -> Vec<Option<(usize, usize)>> {
        let mut cached = vec![None; self.model_layers as usize];
        for (number, group) in self.groups.iter().enumerate() {
            for (index, &layer) in group.layers.iter().enumerate() {
                cached[layer as usize] = Some((number, index));
            }
        }
        cached
    }
}

fn count(what: &'static str, given: u64, most: u32) -> Result<(), Flaw> {
    let most = u64::from(most);
    if (1..=most).contains(&given) { Ok(()) } else { Err(Flaw::Count { what, given, most }) }
}
