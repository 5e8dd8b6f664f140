//! Plans against a copy that knows no strides: every byte of every token of every head is looked up by itself, on both
//! sides, in caches of all shapes. Memory is modelled as one number a byte, which says whose byte it is.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::ops::Range;

use kvferry_plan::{
    Attention, Axis, Blocks, Dtype, Geometry, Group, Move, Pairing, Place, Share, Strides, Tensors, Tokens,
};
use proptest::prelude::*;

/// A model: what each layer caches, if anything.
#[derive(Debug, Clone)]
struct Model {
    layers: Vec<Option<Attention>>,
}

/// How one side keeps it.
#[derive(Debug, Clone)]
struct Keeping {
    tp: u32,
    /// Bit i: a pipeline rank ends after layer i.
    pp: u8,
    order: Vec<Axis>,
    tensors: u8,
    block_size: u32,
    /// Bytes left free after each head, and after each axis.
    pads: [u64; 6],
    /// Layers with the same attention in two groups of block lists, by turns.
    regroup: bool,
    /// Groups in the same tensors, with different blocks of them, where their shapes allow.
    pool: bool,
    /// Tensors one after the other, backwards, or each in its own region.
    placing: u8,
    ids: Vec<u32>,
    spare: u32,
    /// Lists begin where the window does.
    tails: bool,
}

#[derive(Debug, Clone)]
struct Case {
    model: Model,
    source: Keeping,
    destination: Keeping,
    tokens: Tokens,
    rank: prop::sample::Index,
}

/// One rank's cache, and where each of its bytes is, by the longest way.
struct Rank {
    geometry: Geometry,
    lists: Vec<(u64, Vec<u32>)>,
    /// A number a byte, for each region.
    memory: Vec<Vec<u64>>,
    order: Vec<Axis>,
    pads: [u64; 6],
}

fn pipeline(cuts: u8, layers: u32) -> Vec<Range<u32>> {
    let ends = (1..layers).filter(|layer| cuts >> (layer - 1) & 1 == 1).chain([layers]);
    ends.scan(0, |begin, end| Some(std::mem::replace(begin, end)..end)).collect()
}

/// Strides of axes with so many of each, and the bytes of them all.
fn strides(order: &[Axis], counts: impl Fn(Axis) -> u64, head: u64, pads: [u64; 6]) -> (Strides, u64) {
    let mut size = head + pads[5];
    let mut strides = Strides::default();
    for (axis, pad) in order.iter().rev().zip(pads) {
        let stride = match axis {
            Axis::Layer => &mut strides.layer,
            Axis::Plane => &mut strides.plane,
            Axis::Block => &mut strides.block,
            Axis::Head => &mut strides.head,
            Axis::Token => &mut strides.token,
        };
        *stride = size;
        size = size * counts(*axis) + pad;
    }
    (strides, size)
}

impl Keeping {
    fn groups(&self, model: &Model, layers: &Range<u32>) -> Vec<(Attention, Vec<u32>)> {
        let mut groups: Vec<((Attention, u32), Vec<u32>)> = Vec::new();
        for layer in layers.clone() {
            let Some(attention) = model.layers[layer as usize] else { continue };
            let key = (attention, if self.regroup { layer % 2 } else { 0 });
            match groups.iter_mut().find(|(known, _)| *known == key) {
                Some((_, layers)) => layers.push(layer),
                None => groups.push((key, vec![layer])),
            }
        }
        groups.into_iter().map(|((attention, _), layers)| (attention, layers)).collect()
    }

    /// The rank `share` of the layers `layers`; `None` if it caches nothing. `other` is the other side's block size.
    fn rank(
        &self,
        model: &Model,
        layers: Range<u32>,
        share: Share,
        tokens: Tokens,
        other: u32,
    ) -> Option<Rank> {
        let wanted = self.groups(model, &layers);
        if wanted.is_empty() {
            return None;
        }
        let alike = |(attention, layers): &(Attention, Vec<u32>)| {
            (Attention { window: None, ..*attention }, layers.len())
        };
        let pool = self.pool && wanted.iter().all(|group| alike(group) == alike(&wanted[0]));
        let needed = u32::try_from(tokens.length).unwrap().div_ceil(self.block_size);
        let blocks = needed * if pool { u32::try_from(wanted.len()).unwrap() } else { 1 } + self.spare;
        let mut regions: Vec<u64> = Vec::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut lists = Vec::new();
        for (number, (attention, layers)) in wanted.into_iter().enumerate() {
            let count = |axis| match axis {
                Axis::Layer => {
                    if self.tensors == 0 {
                        layers.len() as u64
                    } else {
                        1
                    }
                }
                Axis::Plane => {
                    if self.tensors == 2 {
                        1
                    } else {
                        attention.planes.count().into()
                    }
                }
                Axis::Block => blocks.into(),
                Axis::Head => share.heads(attention.heads).len() as u64,
                Axis::Token => self.block_size.into(),
            };
            let (strides, bytes) = strides(&self.order, count, attention.head_bytes(), self.pads);
            let tensors = [1, layers.len(), layers.len() * attention.planes.count() as usize]
                [usize::from(self.tensors)];
            let mut places: Vec<Place> = (0..tensors)
                .map(|_| {
                    if self.placing == 2 || regions.is_empty() {
                        regions.push(3);
                    }
                    let region = u32::try_from(regions.len() - 1).unwrap();
                    let offset = *regions.last().unwrap();
                    *regions.last_mut().unwrap() += bytes;
                    Place { region, offset }
                })
                .collect();
            if self.placing == 1 {
                places.reverse();
            }
            let tensors = match self.tensors {
                _ if pool && number > 0 => groups[0].tensors.clone(),
                0 => Tensors::Stacked(places[0]),
                1 => Tensors::Each(places),
                _ => Tensors::Split(places),
            };
            groups.push(Group { attention, layers, tensors, strides, block_size: self.block_size, blocks });
            let skip = if pool { number * needed as usize } else { 0 };
            let mut ids: Vec<u32> =
                self.ids.iter().copied().filter(|&id| id < blocks).skip(skip).take(needed as usize).collect();
            let first = (0..u64::from(needed))
                .find(|block| {
                    let first = block * u64::from(self.block_size);
                    let mut its = first..first + u64::from(self.block_size);
                    !self.tails
                        || its.any(|token| is_wanted(attention, token, tokens, self.block_size, other))
                })
                .unwrap_or(needed.into());
            ids.drain(..usize::try_from(first).unwrap());
            lists.push((first, ids));
        }
        let model_layers = u32::try_from(model.layers.len()).unwrap();
        let memory = regions.iter().map(|&bytes| vec![0; usize::try_from(bytes).unwrap()]).collect();
        let geometry = Geometry { model_layers, layers, share, groups };
        Some(Rank { geometry, lists, memory, order: self.order.clone(), pads: self.pads })
    }

    fn ranks(&self, model: &Model, tokens: Tokens, other: u32) -> Vec<Rank> {
        let pipeline = pipeline(self.pp, u32::try_from(model.layers.len()).unwrap());
        let shares = (0..self.tp).map(|rank| Share { rank, size: self.tp });
        let of = |share| {
            pipeline.iter().filter_map(move |layers| self.rank(model, layers.clone(), share, tokens, other))
        };
        shares.flat_map(of).collect()
    }
}

/// Whether a token is wanted, by asking of each token of its two blocks whether it is still seen.
fn is_wanted(attention: Attention, token: u64, tokens: Tokens, one: u32, other: u32) -> bool {
    let seen = |token: u64| attention.window.is_none_or(|window| token + u64::from(window) > tokens.length);
    let block_seen = |size: u32| {
        let size = u64::from(size);
        let first = token / size * size;
        (first..first + size).any(seen)
    };
    (tokens.from..tokens.to).contains(&token) && block_seen(one) && block_seen(other)
}

impl Rank {
    /// Region and byte of a byte of a token of the sequence; `None` if the token's block is not listed.
    fn byte(
        &self,
        group: usize,
        index: usize,
        plane: u32,
        head: u32,
        token: u64,
        byte: u64,
    ) -> Option<(usize, usize)> {
        let (first, ids) = &self.lists[group];
        let group = &self.geometry.groups[group];
        let size = u64::from(group.block_size);
        let id = *ids.get(usize::try_from((token / size).checked_sub(*first)?).unwrap())?;
        let planes = group.attention.planes.count();
        // Whatever has tensors of its own is the 0th and only one in each of them.
        let (tensor, layer, plane) = match &group.tensors {
            Tensors::Stacked(first) => (*first, index, plane),
            Tensors::Each(places) => (places[index], 0, plane),
            Tensors::Split(places) => (places[index * planes as usize + plane as usize], 0, 0),
        };
        let many = match &group.tensors {
            Tensors::Stacked(_) => (group.layers.len(), planes),
            Tensors::Each(_) => (1, planes),
            Tensors::Split(_) => (1, 1),
        };
        let heads = self.geometry.share.heads(group.attention.heads);
        let mut offset = byte;
        let mut size_of_one = group.attention.head_bytes() + self.pads[5];
        for (axis, pad) in self.order.iter().rev().zip(self.pads) {
            let (at, count) = match axis {
                Axis::Layer => (layer as u64, many.0 as u64),
                Axis::Plane => (plane.into(), many.1.into()),
                Axis::Block => (id.into(), group.blocks.into()),
                Axis::Head => ((head - heads.start).into(), heads.len() as u64),
                Axis::Token => (token % size, size),
            };
            offset += at * size_of_one;
            size_of_one = size_of_one * count + pad;
        }
        Some((tensor.region as usize, usize::try_from(tensor.offset + offset).unwrap()))
    }

    /// Visits every byte of every listed token of the sequence: where it is, its token, and a number that is only its.
    fn each_byte(&self, length: u64, mut visit: impl FnMut((usize, usize), Attention, u64, u64)) {
        for (number, group) in self.geometry.groups.iter().enumerate() {
            let attention = group.attention;
            for (index, &layer) in group.layers.iter().enumerate() {
                for plane in 0..attention.planes.count() {
                    for head in self.geometry.share.heads(attention.heads) {
                        for token in 0..length {
                            for byte in 0..attention.head_bytes() {
                                let Some(place) = self.byte(number, index, plane, head, token, byte) else {
                                    break;
                                };
                                let name = [layer.into(), plane.into(), head.into(), token, byte];
                                visit(
                                    place,
                                    attention,
                                    token,
                                    name.iter().fold(1, |name, part| name << 10 | part),
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    fn blocks(&self) -> Vec<Blocks<'_>> {
        self.lists.iter().map(|(first, ids)| Blocks { first: *first, ids }).collect()
    }
}

/// No two could be one, none overlap, all are in order.
fn assert_least(moves: &[Move]) {
    assert!(moves.iter().all(|one| one.len > 0));
    for pair in moves.windows(2) {
        let end = |place: Place| Place { offset: place.offset + pair[0].len, ..place };
        assert!(end(pair[0].to) <= pair[1].to, "{pair:?} overlap or are out of order");
        assert!((end(pair[0].from), end(pair[0].to)) != (pair[1].from, pair[1].to), "{pair:?} could be one");
    }
}

fn assert_plans_copy(case: &Case) {
    let Case { model, source, destination, tokens, rank } = case;
    let mut sources = source.ranks(model, *tokens, destination.block_size);
    let destinations = destination.ranks(model, *tokens, source.block_size);
    if sources.is_empty() {
        return;
    }
    let taker = &destinations[rank.index(destinations.len())];
    for giver in &mut sources {
        let mut memory = std::mem::take(&mut giver.memory);
        giver.each_byte(tokens.length, |(region, offset), _, _, name| {
            assert_eq!(memory[region][offset], 0, "the test's own caches overlap");
            memory[region][offset] = name;
        });
        giver.memory = memory;
    }
    let mut got = taker.memory.clone();
    for giver in &sources {
        let pairing = Pairing::new(&giver.geometry, &taker.geometry).unwrap();
        let moves = pairing.plan(&giver.blocks(), &taker.blocks(), *tokens, usize::MAX).unwrap();
        assert_least(&moves);
        assert!(!pairing.is_empty() || moves.is_empty());
        assert_eq!(
            moves,
            pairing.plan(&giver.blocks(), &taker.blocks(), *tokens, moves.len().max(1) * 64).unwrap()
        );
        for Move { from, to, len } in moves {
            let range = |place: Place| {
                let offset = usize::try_from(place.offset).unwrap();
                offset..offset + usize::try_from(len).unwrap()
            };
            let bytes = &giver.memory[from.region as usize][range(from)];
            let place = &mut got[to.region as usize][range(to)];
            assert!(place.iter().all(|&byte| byte == 0), "a byte is written twice");
            assert!(bytes.iter().all(|&byte| byte != 0), "a byte is read that is no token's");
            place.copy_from_slice(bytes);
        }
    }
    let mut expected = taker.memory.clone();
    taker.each_byte(tokens.length, |(region, offset), attention, token, name| {
        if is_wanted(attention, token, *tokens, source.block_size, destination.block_size) {
            expected[region][offset] = name;
        }
    });
    assert_eq!(got, expected);
}

fn keeping() -> impl Strategy<Value = (usize, Keeping)> {
    use Axis::{Block, Head, Layer, Plane, Token};
    let order = prop_oneof![
        Just(vec![Layer, Plane, Block, Head, Token]),
        Just(vec![Layer, Plane, Block, Token, Head]),
        Just(vec![Layer, Block, Head, Token, Plane]),
        Just(vec![Block, Layer, Token, Head, Plane]),
        Just(vec![Layer, Plane, Block, Head, Token]).prop_shuffle(),
    ];
    let pads = prop_oneof![3 => Just([0; 6]), 1 => prop::array::uniform6(0..3u64)];
    let ids = prop_oneof![
        Just((0..200).collect::<Vec<_>>()),
        Just((0..200).rev().collect()),
        Just((0..200).collect::<Vec<_>>()).prop_shuffle(),
    ];
    let shape = (any::<usize>(), any::<u8>(), order, 0..3u8, 1..=9u32, pads);
    let lists = (any::<bool>(), any::<bool>(), 0..3u8, ids, 0..3u32, any::<bool>());
    (shape, lists).prop_map(
        |((tp, pp, order, tensors, block_size, pads), (regroup, pool, placing, ids, spare, tails))| {
            let keeping = Keeping {
                tp: 1,
                pp,
                order,
                tensors,
                block_size,
                pads,
                regroup,
                pool,
                placing,
                ids,
                spare,
                tails,
            };
            (tp, keeping)
        },
    )
}

fn attention() -> impl Strategy<Value = Attention> {
    let dtype = prop_oneof![Just(Dtype::I8), Just(Dtype::Bf16)];
    let grouped = (prop_oneof![Just(1), Just(2), Just(4), Just(6)], 1..3u32, dtype.clone());
    prop_oneof![
        3 => grouped.prop_map(|(heads, dim, dtype)| Attention::grouped(heads, dim, dtype)),
        1 => (1..5u32, dtype).prop_map(|(dim, dtype)| Attention::latent(dim, dtype)),
    ]
}

fn model() -> impl Strategy<Value = Model> {
    let kinds = (attention(), attention(), 1..20u32, any::<bool>());
    (kinds, prop::collection::vec(0..8u8, 1..5)).prop_map(|((full, other, window, same), layers)| {
        let sliding = if same { full } else { other }.sliding(window);
        let of = |pick| match pick {
            0..=4 => Some(full),
            5 | 6 => Some(sliding),
            _ => None,
        };
        Model { layers: layers.into_iter().map(of).collect() }
    })
}

fn case() -> impl Strategy<Value = Case> {
    let tokens = (1..34u64, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>());
    (model(), keeping(), keeping(), tokens, any::<prop::sample::Index>()).prop_map(
        |(model, source, destination, (length, one, other, whole), rank)| {
            let split = |(pick, keeping): (usize, Keeping)| {
                let divides = |size: &u32| {
                    let all = |attention: &Attention| Share { rank: 0, size: *size }.divides(attention.heads);
                    model.layers.iter().flatten().all(all)
                };
                let sizes: Vec<u32> = [1, 2, 3, 4, 6, 8, 12].into_iter().filter(divides).collect();
                Keeping { tp: sizes[pick % sizes.len()], ..keeping }
            };
            let size = usize::try_from(length).unwrap() + 1;
            let (one, other) = (one.index(size) as u64, other.index(size) as u64);
            let (from, to) = if whole { (0, length) } else { (one.min(other), one.max(other)) };
            let tokens = Tokens { from, to, length };
            let (source, destination) = (split(source), split(destination));
            Case { model, source, destination, tokens, rank }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 1500 }, ..ProptestConfig::default() })]

    #[test]
    fn a_destination_rank_gets_from_all_sources_exactly_its_bytes_once_in_the_fewest_moves(case in case()) {
        assert_plans_copy(&case);
    }
}
