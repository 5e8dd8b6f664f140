//! How many moves real models make: the shapes that benches and papers quote, at 8,192 tokens.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use kvferry_plan::{
    Blocks, Dtype, Layout, Move, Pairing, Share, Tokens,
    models::{MODELS, Model, Rank},
};

const TOKENS: u64 = 8192;

fn rank(model: Model, layout: Layout, block_size: u32) -> Rank {
    // Twice as many as the sequence needs: layers of a cache are further apart than a sequence is long.
    let blocks = 2 * 8192 / block_size;
    Rank { layout, share: Share::WHOLE, layers: 0..model.layers, block_size, blocks }
}

fn split(rank: &Rank, number: u32, size: u32) -> Rank {
    Rank { share: Share { rank: number, size }, ..rank.clone() }
}

fn plan(model: Model, source: &Rank, destination: &Rank, backwards: bool, tokens: u64) -> Vec<Move> {
    let (from, to) = (model.geometry(source).unwrap().0, model.geometry(destination).unwrap().0);
    let ids = |rank: &Rank| (0..8192 / rank.block_size).collect::<Vec<_>>();
    let (mut there, here) = (ids(source), ids(destination));
    if backwards {
        there.reverse();
    }
    let lists = |ids, groups| vec![Blocks::all(ids); groups];
    let pairing = Pairing::new(&from, &to).unwrap();
    let (there, here) = (lists(&there, from.groups.len()), lists(&here, to.groups.len()));
    pairing.plan(&there, &here, Tokens::all(tokens), usize::MAX).unwrap()
}

fn bytes(moves: &[Move]) -> u64 {
    moves.iter().map(|one| one.len).sum()
}

fn llama_70b() -> Model {
    Model::named("llama-3.1-70b").unwrap()
}

#[test]
fn a_token_is_as_large_as_published() {
    let sizes = MODELS.map(|model| (model.name, model.token_bytes()));
    let published = [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-70b", 327_680),
        ("llama-3.1-405b", 516_096),
        ("qwen3-8b", 147_456),
        ("qwen3-32b", 262_144),
        ("qwen3-30b-a3b", 98_304),
        ("qwen3-235b-a22b", 192_512),
        ("gpt-oss-120b", 73_728),
        ("gpt-oss-20b", 49_152),
        ("deepseek-v3", 70_272),
    ];
    assert_eq!(sizes, published);
    assert_eq!(llama_70b().cached_as(Dtype::F8E4m3).token_bytes(), 163_840);
}

#[test]
fn llama_70b_in_neighbouring_blocks_is_a_move_for_each_plane_of_each_layer() {
    let model = llama_70b();
    for (layout, expected) in [
        (Layout::HND, 160),
        (Layout::NHD, 160),
        (Layout::BLOCK_HND, 80),
        (Layout::LBHNC, 80),
        (Layout::LHBNC, 640),
        (Layout::BLHNC, 1),
    ] {
        let rank = rank(model, layout, 16);
        let moves = plan(model, &rank, &rank, false, TOKENS);
        assert_eq!((moves.len(), bytes(&moves)), (expected, TOKENS * model.token_bytes()), "{layout:?}");
    }
}

#[test]
fn a_sequence_that_fills_the_cache_is_one_move() {
    let model = llama_70b();
    let rank = Rank { blocks: 512, ..rank(model, Layout::HND, 16) };
    assert_eq!(plan(model, &rank, &rank, false, TOKENS).len(), 1);
}

#[test]
fn blocks_without_neighbours_are_a_move_each_as_published() {
    for (name, by_block_size) in [
        ("llama-3.1-70b", [(16, 81_920), (64, 20_480), (128, 10_240)]),
        ("llama-3.1-8b", [(16, 32_768), (64, 8_192), (128, 4_096)]),
        ("deepseek-v3", [(16, 31_232), (64, 7_808), (128, 3_904)]),
    ] {
        let model = Model::named(name).unwrap();
        for (block_size, expected) in by_block_size {
            let rank = rank(model, Layout::HND, block_size);
            let moves = plan(model, &rank, &rank, true, TOKENS);
            assert_eq!((moves.len(), bytes(&moves)), (expected, TOKENS * model.token_bytes()), "{name}");
        }
    }
}

#[test]
fn all_layers_of_a_block_together_are_a_move_for_each_block() {
    let model = llama_70b();
    let rank = rank(model, Layout::BLHNC, 16);
    assert_eq!(plan(model, &rank, &rank, true, TOKENS).len(), 512);
}

#[test]
fn tensor_parallel_ranks_split_blocks_unless_heads_lie_outside_them() {
    let model = llama_70b();
    for (from, to) in [(1, 2), (2, 4), (4, 8), (1, 8), (8, 4), (4, 2), (2, 1)] {
        for (layout, each) in [(Layout::HND, 81_920), (Layout::LBHNC, 40_960)] {
            let whole = rank(model, layout, 16);
            let moves = plan(model, &split(&whole, 0, from), &split(&whole, 0, to), false, TOKENS);
            // One run of heads in each block, whichever side has more of them.
            assert_eq!(
                (moves.len(), bytes(&moves)),
                (each, TOKENS * model.token_bytes() / u64::from(from.max(to)))
            );
        }
    }
    let whole = rank(model, Layout::LHBNC, 16);
    assert_eq!(plan(model, &split(&whole, 1, 4), &split(&whole, 3, 8), false, TOKENS).len(), 80);
}

#[test]
fn more_ranks_than_heads_and_latents_cost_no_more_moves() {
    let (qwen, deepseek) = (Model::named("qwen3-30b-a3b").unwrap(), Model::named("deepseek-v3").unwrap());
    let whole = rank(qwen, Layout::HND, 16);
    assert_eq!(plan(qwen, &split(&whole, 5, 8), &split(&whole, 5, 8), false, TOKENS).len(), 96);
    assert_eq!(
        plan(qwen, &split(&whole, 4, 8), &split(&whole, 5, 8), false, TOKENS).len(),
        0,
        "its twin gives"
    );
    let whole = rank(deepseek, Layout::HND, 16);
    let moves = plan(deepseek, &split(&whole, 2, 4), &split(&whole, 5, 8), false, TOKENS);
    assert_eq!((moves.len(), bytes(&moves)), (61, TOKENS * deepseek.token_bytes()));
}

#[test]
fn pipeline_ranks_give_their_own_layers() {
    let model = llama_70b();
    let whole = rank(model, Layout::HND, 16);
    let stage = |layers| Rank { layers, ..whole.clone() };
    assert_eq!(plan(model, &stage(0..40), &whole, false, TOKENS).len(), 80);
    assert_eq!(plan(model, &stage(30..60), &stage(50..80), false, TOKENS).len(), 20);
    assert_eq!(plan(model, &stage(0..40), &stage(40..80), false, TOKENS).len(), 0);
}

#[test]
fn larger_blocks_cost_nothing_token_by_token_and_a_piece_for_each_head_otherwise() {
    let model = llama_70b();
    for (from, to) in [(16, 64), (64, 16)] {
        let count =
            |layout| plan(model, &rank(model, layout, from), &rank(model, layout, to), false, TOKENS).len();
        assert_eq!(count(Layout::NHD), 160);
        // But where a large block's last head ends, the next one's first begins, on both sides.
        assert_eq!(count(Layout::HND), 160 * (512 * 8 - 127));
    }
}

#[test]
fn the_last_block_gives_only_the_tokens_it_has() {
    let model = llama_70b();
    for (layout, expected) in [(Layout::NHD, 160), (Layout::HND, 160 * 8)] {
        let rank = rank(model, layout, 16);
        let moves = plan(model, &rank, &rank, false, TOKENS - 9);
        // Head by head, the first head's tokens go on where the block before ends.
        assert_eq!(
            (moves.len(), bytes(&moves)),
            (expected, (TOKENS - 9) * model.token_bytes()),
            "{layout:?}"
        );
    }
}

#[test]
fn layers_with_a_window_give_only_the_blocks_in_it() {
    let model = Model::named("gpt-oss-120b").unwrap();
    let rank = rank(model, Layout::LBHNC, 16);
    let moves = plan(model, &rank, &rank, false, TOKENS);
    // 127 tokens are still seen; they lie in 8 blocks of 16.
    let layer = model.attention.token_bytes() * 18;
    assert_eq!((moves.len(), bytes(&moves)), (36, layer * TOKENS + layer * 128));
}
