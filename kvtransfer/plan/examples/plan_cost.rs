//! What a plan costs, for the models that serving papers quote: `cargo run --release -p kvferry-plan --example plan_cost`.
//!
//! A case is planned many times; shown is the median, once into fresh memory as a first request would, once into memory
//! that is used again.
#![expect(clippy::print_stdout, reason = "a table is what it is for")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use kvferry_plan::{
    Blocks, Layout, Move, Pairing, Share, Tokens,
    models::{MODELS, Model, Rank},
};

/// The sequence that published figures are for.
const TOKENS: u64 = 8192;

/// A chunk of it, for layouts that leave every token of every head alone: all of it would be ten million moves.
const CHUNK: u64 = 512;

/// Times each case is planned: enough that a median does not move.
const TIMES: usize = 51;

struct Case {
    name: &'static str,
    source: Rank,
    destination: Rank,
    shuffled: bool,
    tokens: u64,
}

fn cases(model: Model) -> [Case; 7] {
    let rank = |layout, number, size, block_size| Rank {
        layout,
        share: Share { rank: number, size },
        layers: 0..model.layers,
        block_size,
        blocks: 16_384 / block_size,
    };
    let case =
        |name, source, destination, shuffled, tokens| Case { name, source, destination, shuffled, tokens };
    let whole = |layout| rank(layout, 0, 1, 16);
    [
        case("contiguous", whole(Layout::HND), whole(Layout::HND), false, TOKENS),
        case("contiguous, less 9 tokens", whole(Layout::HND), whole(Layout::HND), false, TOKENS - 9),
        case("shuffled", whole(Layout::HND), whole(Layout::HND), true, TOKENS),
        case("shuffled, layers in blocks", whole(Layout::BLHNC), whole(Layout::BLHNC), true, TOKENS),
        case("TP 4 to 8", rank(Layout::HND, 1, 4, 16), rank(Layout::HND, 2, 8, 16), false, TOKENS),
        case("NHD, blocks of 64 to 16", rank(Layout::NHD, 0, 1, 64), whole(Layout::NHD), true, TOKENS),
        case("HND to NHD, 512 tokens", whole(Layout::HND), whole(Layout::NHD), false, CHUNK),
    ]
}

/// All ids below `blocks`, in an order that only `seed` decides.
fn shuffled(blocks: u32, mut seed: u64) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..blocks).collect();
    for at in (1..ids.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let other = (seed >> 33) % (at as u64 + 1);
        ids.swap(at, usize::try_from(other).expect("an index below a list's length"));
    }
    ids
}

fn ids(rank: &Rank, case: &Case, seed: u64) -> Vec<u32> {
    let needed = 8192 / rank.block_size;
    if case.shuffled { shuffled(rank.blocks, seed) } else { (0..needed).collect() }
}

fn median(mut plan: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..TIMES)
        .map(|_| {
            let begin = Instant::now();
            plan();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[TIMES / 2]
}

fn micros(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

fn row(model: Model, case: &Case) {
    let (from, _) = model.geometry(&case.source).expect("a rank that divides the heads");
    let (to, _) = model.geometry(&case.destination).expect("a rank that divides the heads");
    let pairing = Pairing::new(&from, &to).expect("one model on both sides");
    let (there, here) = (ids(&case.source, case, 1), ids(&case.destination, case, 2));
    let lists = |ids, groups| vec![Blocks::all(ids); groups];
    let (there, here) = (lists(&there, from.groups.len()), lists(&here, to.groups.len()));
    let plan = |moves: &mut Vec<Move>| {
        let tokens = Tokens::all(case.tokens);
        pairing.plan_into(&there, &here, tokens, usize::MAX, moves).expect("lists that hold the sequence");
        black_box(moves.len());
    };
    let mut moves = Vec::new();
    plan(&mut moves);
    let bytes: u64 = moves.iter().map(|one| one.len).sum();
    let count = moves.len();
    let fresh = median(|| plan(&mut Vec::new()));
    let again = median(|| plan(&mut moves));
    let pair = median(|| {
        black_box(Pairing::new(&from, &to).is_ok());
    });
    println!(
        "{:<16} {:<28} {:>9} {:>12} {:>10} {:>10} {:>8.1} {:>8}",
        model.name,
        case.name,
        count,
        bytes / count as u64,
        micros(fresh),
        micros(again),
        again.as_secs_f64() * 1e9 / f64::from(u32::try_from(count).expect("fewer moves than a u32 holds")),
        micros(pair),
    );
}

fn main() {
    println!("{TOKENS} tokens in blocks of 16 unless said, K and V apart; medians of {TIMES}; times in µs");
    println!(
        "{:<16} {:<28} {:>9} {:>12} {:>10} {:>10} {:>8} {:>8}",
        "model", "case", "moves", "bytes each", "fresh", "again", "ns/move", "pairing"
    );
    for model in MODELS {
        for case in cases(model) {
            row(model, &case);
        }
    }
}
