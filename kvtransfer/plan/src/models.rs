//! Shapes of the KV caches of models in wide use, from their public configurations: what benches and tests move.

use std::ops::Range;

use crate::{Attention, Dtype, Flaw, Geometry, Layout, Packed, Place, Share};

/// A model's KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// As flags spell it.
    pub name: &'static str,
    /// Layers.
    pub layers: u32,
    /// What each of them caches.
    pub attention: Attention,
    /// The window of every second layer, beginning with the first, in tokens.
    pub alternate_window: Option<u32>,
}

const fn grouped(name: &'static str, layers: u32, heads: u32, head_dim: u32) -> Model {
    Model {
        name,
        layers,
        attention: Attention::grouped(heads, head_dim, Dtype::Bf16),
        alternate_window: None,
    }
}

/// The models.
pub const MODELS: [Model; 10] = [
    grouped("llama-3.1-8b", 32, 8, 128),
    grouped("llama-3.1-70b", 80, 8, 128),
    grouped("llama-3.1-405b", 126, 8, 128),
    grouped("qwen3-8b", 36, 8, 128),
    grouped("qwen3-32b", 64, 8, 128),
    grouped("qwen3-30b-a3b", 48, 4, 128),
    grouped("qwen3-235b-a22b", 94, 4, 128),
    Model { alternate_window: Some(128), ..grouped("gpt-oss-120b", 36, 8, 64) },
    Model { alternate_window: Some(128), ..grouped("gpt-oss-20b", 24, 8, 64) },
    Model {
        name: "deepseek-v3",
        layers: 61,
        attention: Attention::latent(512 + 64, Dtype::Bf16),
        alternate_window: None,
    },
];

/// One rank that serves a model.
#[derive(Debug, Clone)]
pub struct Rank {
    /// The memory order.
    pub layout: Layout,
    /// Which heads.
    pub share: Share,
    /// Which layers.
    pub layers: Range<u32>,
    /// Tokens of a block.
    pub block_size: u32,
    /// Blocks of each group.
    pub blocks: u32,
}

impl Model {
    /// The model of that name.
    pub fn named(name: &str) -> Option<Self> {
        MODELS.into_iter().find(|model| model.name == name)
    }

    /// The same, cached in another type.
    #[must_use]
    pub const fn cached_as(mut self, dtype: Dtype) -> Self {
        self.attention.dtype = dtype;
        self
    }

    /// Bytes of a token that all layers still see, over all ranks.
    pub const fn token_bytes(&self) -> u64 {
        self.layers as u64 * self.attention.token_bytes()
    }

    /// What shares block lists: each group's attention and its layers.
    pub fn groups(&self) -> Vec<(Attention, Vec<u32>)> {
        match self.alternate_window {
            None => vec![(self.attention, (0..self.layers).collect())],
            Some(window) => vec![
                (self.attention, (1..self.layers).step_by(2).collect()),
                (self.attention.sliding(window), (0..self.layers).step_by(2).collect()),
            ],
        }
    }

    /// The cache of such a rank: each group in one tensor, one after the other from the begin of region 0; and its bytes.
    ///
    /// # Errors
    /// What is wrong with such a rank.
    pub fn geometry(&self, rank: &Rank) -> Result<(Geometry, u64), Flaw> {
        let mut groups = Vec::new();
        let mut end = 0;
        for (attention, mut layers) in self.groups() {
            layers.retain(|layer| rank.layers.contains(layer));
            if layers.is_empty() {
                continue;
            }
            let Rank { layout, share, block_size, blocks, .. } = *rank;
            let packed = Packed { layout, attention, layers, share, block_size, blocks };
            let (group, bytes) = packed.stacked(Place { region: 0, offset: end })?;
            groups.push(group);
            end += bytes;
        }
        let geometry =
            Geometry { model_layers: self.layers, layers: rank.layers.clone(), share: rank.share, groups };
        geometry.check()?;
        Ok((geometry, end))
    }
}
