//! What cannot be planned is refused with what is wrong, never planned wrongly: geometries come from peers.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::ops::Range;

use kvferry_plan::{
    Attention, Blocks, Dtype, Flaw, Geometry, Group, Layout, MAX_EXTENT, MAX_LAYERS, Mismatch, Packed,
    Pairing, Place, Planes, Share, Side, Strides, Tensors, Tokens, Unplannable,
};
use proptest::prelude::*;

fn geometry(attention: Attention, share: Share) -> Geometry {
    let packed =
        Packed { layout: Layout::HND, attention, layers: vec![0, 1, 2, 3], share, block_size: 4, blocks: 10 };
    let (group, _) = packed.stacked(Place { region: 7, offset: 100 }).unwrap();
    Geometry { model_layers: 4, layers: 0..4, share, groups: vec![group] }
}

fn grouped() -> Attention {
    Attention::grouped(8, 16, Dtype::Bf16)
}

fn plain() -> Geometry {
    geometry(grouped(), Share::WHOLE)
}

fn with(change: impl FnOnce(&mut Geometry)) -> Geometry {
    let mut geometry = plain();
    change(&mut geometry);
    geometry
}

#[test]
fn caches_of_other_numbers_do_not_pair_and_say_which() {
    let refused = |attention| Pairing::new(&plain(), &geometry(attention, Share::WHOLE)).unwrap_err();
    let layer = 0;
    let (source, destination) = (Dtype::Bf16, Dtype::F16);
    assert_eq!(
        refused(Attention::grouped(8, 16, Dtype::F16)),
        Mismatch::Dtype { layer, source, destination }
    );
    let head_dim = refused(Attention::grouped(8, 32, Dtype::Bf16));
    assert_eq!(head_dim, Mismatch::HeadDim { layer, source: 16, destination: 32 });
    assert_eq!(head_dim.to_string(), "the head sizes of layer 0 differ: source 16, destination 32");
    assert_eq!(
        refused(Attention::grouped(4, 16, Dtype::Bf16)),
        Mismatch::Heads { layer, source: 8, destination: 4 }
    );
    let window = refused(grouped().sliding(128));
    assert_eq!(window, Mismatch::Window { layer, source: None, destination: Some(128) });
    assert_eq!(window.to_string(), "the windows of layer 0 differ: source none, destination 128");
    let (source, destination) = (Planes::KeyValue, Planes::Latent);
    assert_eq!(refused(Attention::latent(16, Dtype::Bf16)), Mismatch::Planes { layer, source, destination });
}

#[test]
fn models_of_other_depth_or_other_cached_layers_do_not_pair() {
    let deeper = with(|geometry| geometry.model_layers = 5);
    assert_eq!(Pairing::new(&plain(), &deeper).unwrap_err(), Mismatch::Layers { source: 4, destination: 5 });
    let fewer = with(|geometry| {
        geometry.groups[0].layers.truncate(3);
    });
    let side = Side::Destination;
    assert_eq!(Pairing::new(&plain(), &fewer).unwrap_err(), Mismatch::Uncached { layer: 3, side });
    let side = Side::Source;
    assert_eq!(Pairing::new(&fewer, &plain()).unwrap_err(), Mismatch::Uncached { layer: 3, side });
}

#[test]
fn layouts_ranks_block_sizes_and_groups_may_all_differ() {
    let share = Share { rank: 1, size: 2 };
    let packed = |layers, offset| {
        Packed { layout: Layout::BLOCK_NHD, attention: grouped(), layers, share, block_size: 6, blocks: 5 }
            .stacked(Place { region: 0, offset })
            .unwrap()
    };
    let (even, bytes) = packed(vec![0, 2], 0);
    let (odd, _) = packed(vec![3, 1], bytes);
    let other = Geometry { model_layers: 4, layers: 0..4, share, groups: vec![even, odd] };
    let pairing = Pairing::new(&plain(), &other).unwrap();
    assert_eq!(pairing.groups().collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    assert_eq!(pairing.token_bytes(), 4 * grouped().token_bytes() / 2);
}

#[test]
fn a_geometry_that_cannot_be_is_refused_with_its_flaw() {
    let flaw = |change: &dyn Fn(&mut Geometry)| with(change).check().unwrap_err();
    let group = |change: &dyn Fn(&mut Group)| flaw(&|geometry| change(&mut geometry.groups[0]));
    let count = |what, given, most: u32| Flaw::Count { what, given, most: most.into() };
    assert_eq!(flaw(&|it| it.model_layers = 0), count("layers of the model", 0, MAX_LAYERS));
    assert_eq!(flaw(&|it| it.groups.clear()), count("KV groups", 0, 64));
    assert_eq!(flaw(&|it| it.layers = Range { start: 3, end: 3 }), Flaw::Range { from: 3, to: 3, layers: 4 });
    assert_eq!(flaw(&|it| it.layers.end = 5), Flaw::Range { from: 0, to: 5, layers: 4 });
    assert_eq!(flaw(&|it| it.layers.end = 3), Flaw::Layer(3));
    assert_eq!(flaw(&|it| it.share = Share { rank: 2, size: 2 }), Flaw::Share { heads: 8, rank: 2, size: 2 });
    assert_eq!(flaw(&|it| it.share.size = 3), Flaw::Share { heads: 8, rank: 0, size: 3 });
    assert_eq!(group(&|it| it.layers[2] = 1), Flaw::Layer(1));
    assert_eq!(group(&|it| it.layers.clear()), count("layers of a group", 0, MAX_LAYERS));
    assert_eq!(group(&|it| it.block_size = 0), count("tokens of a block", 0, 1 << 20));
    assert_eq!(group(&|it| it.blocks = 0), count("blocks", 0, u32::MAX));
    assert_eq!(group(&|it| it.attention.heads = 0), count("KV heads", 0, 1 << 16));
    assert_eq!(group(&|it| it.attention.head_dim = 0), count("numbers of a head", 0, 1 << 16));
    assert_eq!(group(&|it| it.attention.window = Some(0)), count("tokens of a window", 0, u32::MAX));
    assert_eq!(group(&|it| it.tensors = Tensors::Each(vec![])), Flaw::Tensors { given: 0, expected: 4 });
    assert_eq!(group(&|it| it.tensors = Tensors::Split(vec![])), Flaw::Tensors { given: 0, expected: 8 });
    assert_eq!(group(&|it| it.strides.token = 31), Flaw::Strides, "a head has 32 bytes");
    assert_eq!(group(&|it| it.strides.block -= 1), Flaw::Strides);
    assert_eq!(group(&|it| it.strides.layer = u64::MAX / 2), Flaw::Extent);
    let far = Tensors::Stacked(Place { region: 0, offset: MAX_EXTENT });
    assert_eq!(group(&|it| it.tensors = far.clone()), Flaw::Extent);
    let flaw = Flaw::Strides;
    let mut flawed = plain();
    flawed.groups[0].strides.token = 1;
    assert_eq!(
        Pairing::new(&plain(), &flawed).unwrap_err(),
        Mismatch::Flawed { side: Side::Destination, flaw }
    );
    assert_eq!(Pairing::new(&flawed, &plain()).unwrap_err(), Mismatch::Flawed { side: Side::Source, flaw });
}

#[test]
fn the_stride_of_what_there_is_only_one_of_does_not_matter() {
    let mut odd = geometry(grouped(), Share { rank: 0, size: 8 });
    odd.groups[0].strides.head = u64::MAX;
    let pairing = Pairing::new(&odd, &plain()).unwrap();
    let ids = [0];
    let moves = pairing.plan(&[Blocks::all(&ids)], &[Blocks::all(&ids)], Tokens::all(4), 8).unwrap();
    assert_eq!(moves.len(), 8);
}

#[test]
fn a_tensor_ends_where_its_last_byte_does() {
    // 4 layers of keys and values, of 10 blocks of 4 tokens of 8 heads of 32 bytes, from byte 100 on.
    let end = 100 + 4 * 2 * 10 * 4 * 8 * 32;
    assert_eq!(plain().ends().unwrap(), [Place { region: 7, offset: end }]);
}

/// Plans the plain geometry to itself.
fn plan(source: &[u32], destination: &[u32], tokens: Tokens) -> Result<usize, Unplannable> {
    let pairing = Pairing::new(&plain(), &plain()).unwrap();
    let moves = pairing.plan(&[Blocks::all(source)], &[Blocks::all(destination)], tokens, 100)?;
    Ok(moves.len())
}

#[test]
fn lists_that_do_not_hold_the_tokens_are_refused() {
    let [source, destination] = [Side::Source, Side::Destination];
    assert_eq!(plan(&[1, 2], &[3, 4], Tokens::all(8)), Ok(8));
    assert_eq!(
        plan(&[1], &[3, 4], Tokens::all(8)),
        Err(Unplannable::Short { side: source, group: 0, block: 1 })
    );
    assert_eq!(
        plan(&[1, 2], &[3], Tokens::all(5)),
        Err(Unplannable::Short { side: destination, group: 0, block: 1 })
    );
    assert_eq!(
        plan(&[1, 10], &[3, 4], Tokens::all(8)),
        Err(Unplannable::NoBlock { side: source, group: 0, id: 10, blocks: 10 })
    );
    assert_eq!(plan(&[1, 2], &[3, 3], Tokens::all(8)), Err(Unplannable::Twice { group: 0, id: 3 }));
    assert_eq!(plan(&[1, 1], &[3, 4], Tokens::all(8)), Ok(16), "reading twice is no harm");
    let of = |from, to, length| plan(&[1, 2], &[3, 4], Tokens { from, to, length });
    assert_eq!(of(5, 4, 8), Err(Unplannable::Tokens { from: 5, to: 4, length: 8 }));
    assert_eq!(of(0, 8, 7), Err(Unplannable::Tokens { from: 0, to: 8, length: 7 }));
    assert_eq!(of(3, 3, 8), Ok(0));
    assert_eq!(of(0, u64::MAX, u64::MAX), Err(Unplannable::Short { side: source, group: 0, block: 2 }));
    assert_eq!(plan(&[1, 99], &[3, 98], Tokens::all(4)), Ok(8), "what is not wanted is not looked at");
}

#[test]
fn a_list_may_begin_later_than_its_sequence() {
    let pairing = Pairing::new(&plain(), &plain()).unwrap();
    let tail = Blocks { first: 2, ids: &[5] };
    let tokens = |from| Tokens { from, to: 12, length: 12 };
    assert_eq!(pairing.plan(&[tail], &[tail], tokens(8), 100).unwrap().len(), 8);
    let short = Unplannable::Short { side: Side::Source, group: 0, block: 1 };
    assert_eq!(pairing.plan(&[tail], &[tail], tokens(7), 100), Err(short));
}

#[test]
fn one_list_for_each_group_and_no_more_moves_than_asked_for() {
    let pairing = Pairing::new(&plain(), &plain()).unwrap();
    let list = Blocks::all(&[1]);
    let groups = Unplannable::Groups { side: Side::Destination, given: 2, expected: 1 };
    assert_eq!(pairing.plan(&[list], &[list, list], Tokens::all(4), 100), Err(groups));
    assert_eq!(pairing.plan(&[list], &[list], Tokens::all(4), 7), Err(Unplannable::TooMany { most: 7 }));
    assert_eq!(pairing.plan(&[list], &[list], Tokens::all(4), 8).unwrap().len(), 8);
}

#[test]
fn groups_that_share_tensors_must_not_share_blocks() {
    let two = with(|geometry| {
        let mut odd = geometry.groups[0].clone();
        odd.layers = vec![2, 3];
        geometry.groups[0].layers = vec![0, 1];
        geometry.groups.push(odd);
    });
    let pairing = Pairing::new(&two, &two).unwrap();
    let source = [Blocks::all(&[1]), Blocks::all(&[2])];
    let plan = |ids| pairing.plan(&source, &[Blocks::all(&[3]), Blocks::all(ids)], Tokens::all(4), 100);
    assert_eq!(plan(&[4]).unwrap().len(), 4, "neighbours join, also from another group");
    let first = 100 + 3 * 4 * 8 * 32;
    assert_eq!(plan(&[3]), Err(Unplannable::Shared { region: 7, offset: first }));
}

/// Small and huge numbers, as a broken or hostile peer may send them.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..5u64, 4 => (0..12u32).prop_map(|bits| 1 << bits), 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

/// Writes `number` over one of a geometry's own.
fn spoil(geometry: &mut Geometry, which: usize, number: u64) {
    let small = u32::try_from(number).unwrap_or(u32::MAX);
    let group = &mut geometry.groups[0];
    let Strides { layer, plane, block, head, token } = &mut group.strides;
    if let Some(stride) = [layer, plane, block, head, token].into_iter().nth(which) {
        *stride = number;
        return;
    }
    match (which, &mut group.tensors) {
        (5, _) => group.blocks = small,
        (6, _) => group.block_size = small,
        (7, _) => group.attention.heads = small,
        (8, _) => geometry.share.size = small,
        (_, Tensors::Stacked(place)) => place.offset = number,
        (_, Tensors::Each(places) | Tensors::Split(places)) => places[0].offset = number,
    }
}

fn any_geometry() -> impl Strategy<Value = Geometry> {
    let shape = (0..10usize, 0..3u8, 1..6u32, 6..9u32);
    let spoilt = prop::collection::vec((0..10usize, number()), 0..3);
    (shape, prop::collection::vec((0..2u32, 0..5000u64), 4), spoilt).prop_map(
        |((layout, tensors, block_size, blocks), places, spoilt)| {
            let places: Vec<_> =
                places.into_iter().map(|(region, offset)| Place { region, offset }).collect();
            let attention = Attention::grouped(2, 2, Dtype::I8);
            let (layout, layers, share) = (Layout::NAMED[layout].1, vec![0, 1], Share::WHOLE);
            let packed = Packed { layout, attention, layers, share, block_size, blocks };
            let (group, _) = match tensors {
                0 => packed.stacked(places[0]),
                1 => packed.each(places[..2].to_vec()),
                _ => packed.split(places),
            }
            .unwrap();
            let mut geometry = Geometry { model_layers: 2, layers: 0..2, share, groups: vec![group] };
            for (which, number) in spoilt {
                spoil(&mut geometry, which, number);
            }
            geometry
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 8 } else { 4000 }, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_peer_says_nothing_outside_its_tensors_is_named(
        source in any_geometry(),
        destination in any_geometry(),
        there in Just(vec![0, 1, 2, 3, 4, 5]).prop_shuffle(),
        here in Just(vec![0, 1, 2, 3, 4, 5]).prop_shuffle(),
        length in 0..40u64,
    ) {
        let Ok(pairing) = Pairing::new(&source, &destination) else { return Ok(()) };
        let (from_ends, to_ends) = (source.ends().unwrap(), destination.ends().unwrap());
        let most = u64::from(source.groups[0].block_size.min(destination.groups[0].block_size)) * there.len() as u64;
        let length = length.min(most);
        let planned = pairing.plan(&[Blocks::all(&there)], &[Blocks::all(&here)], Tokens::all(length), 5000);
        for one in planned.into_iter().flatten() {
            let within = |place: Place, ends: &[Place]| {
                ends.iter().any(|end| end.region == place.region && place.offset + one.len <= end.offset)
            };
            prop_assert!(within(one.from, &from_ends) && within(one.to, &to_ends));
        }
    }
}
