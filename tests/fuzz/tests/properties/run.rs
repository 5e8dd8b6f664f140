//! One target against all its inputs, and what is told when one of them breaks it.

use std::any::Any;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::catch_unwind;
use std::path::PathBuf;

use kvferry_fuzz::Target;
use proptest::strategy::{BoxedStrategy, Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::{corpus, dictionary, mutate};

/// Mutated inputs for each target: some seconds of work.
const MUTATED: usize = 10_000;

/// Generated inputs for each target: larger and more alike than mutated ones, so fewer do.
const GENERATED: usize = 3_000;

/// The seed unless `KVFERRY_SEED` names another.
const SEED: u64 = 20_261_121;

/// Runs a target against its corpus, mutations of it, and what `generated` makes.
pub(crate) fn run(target: Target, generated: &BoxedStrategy<Vec<u8>>) {
    if let Ok(path) = std::env::var("KVFERRY_FUZZ_INPUT") {
        return (target.run)(&fs::read(path).unwrap());
    }
    let seed =
        std::env::var("KVFERRY_SEED").map_or(SEED, |seed| seed.parse().expect("KVFERRY_SEED is a number"));
    let (seeds, words) = (corpus::load(target.name), dictionary::load(target.name));
    for input in &seeds {
        check(target, input, seed);
    }
    let mut mutator = mutate::Mutator::new(seed, &seeds, &words);
    for _ in 0..MUTATED {
        check(target, &mutator.next(), seed);
    }
    let mut runner = TestRunner::new(Config { rng_seed: RngSeed::Fixed(seed), ..Config::default() });
    for _ in 0..GENERATED {
        check(target, &generated.new_tree(&mut runner).unwrap().current(), seed);
    }
}

/// Runs one input; a panic is told again with how to come back to it.
pub(crate) fn check(target: Target, input: &[u8], seed: u64) {
    let Err(broken) = catch_unwind(|| (target.run)(input)) else { return };
    let path = save(target.name, input);
    panic!(
        "{name}: {}\nfound with KVFERRY_SEED={seed}; this input alone: \
         KVFERRY_FUZZ_INPUT={} cargo test -p kvferry-fuzz {name}::",
        what(&*broken),
        path.display(),
        name = target.name
    );
}

fn save(target: &str, input: &[u8]) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{:016x}", hasher.finish()));
    fs::write(&path, input).unwrap();
    path
}

fn what(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}
