//! What two ranks exchange whatever the blocks: which layers and heads, found once when they meet.

use std::collections::BTreeMap;

use crate::{
    Geometry, Group, Mismatch, Share, Side,
    slab::{Dim, Slab, stack},
};

/// One source rank and one destination rank whose caches fit. It may be that nothing flows between them: other ranks then
/// have what the destination wants.
#[derive(Debug, Clone)]
pub struct Pairing {
    /// Of each group of the source and of the destination, what its block lists mean.
    pub(crate) source: Vec<Steps>,
    pub(crate) destination: Vec<Steps>,
    pub(crate) exchanges: Vec<Exchange>,
}

/// What a block id means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    /// Tokens of a block.
    pub size: u32,
    /// Ids are below this.
    pub blocks: u32,
    /// Bytes from block to block, and from token to token.
    pub block: u64,
    pub token: u64,
}

/// The layers that one group of the source and one of the destination both cache.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub source: usize,
    pub destination: usize,
    pub attention: crate::Attention,
    pub slabs: Vec<Slab>,
    /// Bytes of one token.
    pub token_bytes: u64,
}

impl Pairing {
    /// What flows from the rank of `source` to that of `destination`.
    ///
    /// # Errors
    /// The first thing in which the two differ and must not; or what is wrong with one of them.
    pub fn new(source: &Geometry, destination: &Geometry) -> Result<Self, Mismatch> {
        source.check().map_err(|flaw| Mismatch::Flawed { side: Side::Source, flaw })?;
        destination.check().map_err(|flaw| Mismatch::Flawed { side: Side::Destination, flaw })?;
        let shared = common(source, destination)?;
        let mut exchanges = Vec::new();
        for ((from, to), layers) in shared {
            let ends = (
                End::new(&source.groups[from], source.share),
                End::new(&destination.groups[to], destination.share),
            );
            if let Some((slabs, token_bytes)) = slabs(&ends.0, &ends.1, &layers) {
                let attention = ends.0.group.attention;
                exchanges.push(Exchange { source: from, destination: to, attention, slabs, token_bytes });
            }
        }
        exchanges.sort_by_key(|exchange| exchange.slabs.first().map(|slab| slab.to));
        let steps = |geometry: &Geometry| geometry.groups.iter().map(Steps::of).collect();
        Ok(Self { source: steps(source), destination: steps(destination), exchanges })
    }

    /// Whether nothing flows between these two: the destination's rank has it all from others.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }

    /// The groups whose block lists are needed, as (source's, destination's) numbers; a group may be in several.
    pub fn groups(&self) -> impl Iterator<Item = (usize, usize)> {
        self.exchanges.iter().map(|exchange| (exchange.source, exchange.destination))
    }

    /// Bytes of one token that every layer still sees, between these two ranks.
    pub fn token_bytes(&self) -> u64 {
        self.exchanges.iter().map(|exchange| exchange.token_bytes).sum()
    }
}

impl Steps {
    fn of(group: &Group) -> Self {
        let crate::Strides { block, token, .. } = group.strides;
        Self { size: group.block_size, blocks: group.blocks, block, token }
    }
}

/// Groups, and indices of layers in them: the source's first.
type Shared = BTreeMap<(usize, usize), Vec<(usize, usize)>>;

/// The layers that both ranks run, by the groups that cache them; refused if they are not cached alike.
fn common(source: &Geometry, destination: &Geometry) -> Result<Shared, Mismatch> {
    if source.model_layers != destination.model_layers {
        return Err(Mismatch::Layers { source: source.model_layers, destination: destination.model_layers });
    }
    let (there, here) = (source.cached(), destination.cached());
    let mut shared = Shared::new();
    for layer in
        source.layers.start.max(destination.layers.start)..source.layers.end.min(destination.layers.end)
    {
        match (there[layer as usize], here[layer as usize]) {
            (None, None) => {}
            (Some(_), None) => return Err(Mismatch::Uncached { layer, side: Side::Destination }),
            (None, Some(_)) => return Err(Mismatch::Uncached { layer, side: Side::Source }),
            (Some((from, index)), Some((to, place))) => {
                alike(layer, &source.groups[from], &destination.groups[to])?;
                shared.entry((from, to)).or_default().push((index, place));
            }
        }
    }
    Ok(shared)
}

fn alike(layer: u32, source: &Group, destination: &Group) -> Result<(), Mismatch> {
    let (there, here) = (&source.attention, &destination.attention);
    if there.planes != here.planes {
        return Err(Mismatch::Planes { layer, source: there.planes, destination: here.planes });
    }
    if there.dtype != here.dtype {
        return Err(Mismatch::Dtype { layer, source: there.dtype, destination: here.dtype });
    }
    if there.head_dim != here.head_dim {
        return Err(Mismatch::HeadDim { layer, source: there.head_dim, destination: here.head_dim });
    }
    if there.heads != here.heads {
        return Err(Mismatch::Heads { layer, source: there.heads, destination: here.heads });
    }
    if there.window != here.window {
        return Err(Mismatch::Window { layer, source: there.window, destination: here.window });
    }
    Ok(())
}

/// One side's group and rank.
struct End<'a> {
    group: &'a Group,
    share: Share,
}

impl<'a> End<'a> {
    fn new(group: &'a Group, share: Share) -> Self {
        Self { group, share }
    }

    /// Bytes from the rank's first head to `head` of the model.
    fn to_head(&self, head: u32) -> u64 {
        u64::from(head - self.share.heads(self.group.attention.heads).start) * self.group.strides.head
    }
}

/// The layers, planes and heads that go from one to the other, and a token's bytes of them; `None` if there are none.
fn slabs(source: &End<'_>, destination: &End<'_>, layers: &[(usize, usize)]) -> Option<(Vec<Slab>, u64)> {
    let attention = source.group.attention;
    let heads = destination.share.takes(source.share, attention.heads);
    if heads.is_empty() {
        return None;
    }
    let skip = (source.to_head(heads.start), destination.to_head(heads.start));
    let many =
        Dim { n: heads.len() as u64, from: source.group.strides.head, to: destination.group.strides.head };
    let planes = attention.planes.count();
    let one_layer = |&(index, place): &(usize, usize)| {
        let each = (0..planes).map(|plane| {
            let (from, to) = (source.group.place(index, plane), destination.group.place(place, plane));
            Slab::new(from.plus(skip.0), to.plus(skip.1), [many])
        });
        stack(each.collect())
    };
    let slabs = stack(layers.iter().flat_map(one_layer).collect());
    let bytes = u64::from(planes) * heads.len() as u64 * layers.len() as u64 * attention.head_bytes();
    Some((slabs, bytes))
}
