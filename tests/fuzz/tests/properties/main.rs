//! The fuzz targets on stable, without a fuzzer: every corpus file, mutations of corpus files, and generated inputs.
//!
//! A failing input is saved and its path is printed; `KVFERRY_FUZZ_INPUT=<path> cargo test -p kvferry-fuzz
//! <target>::` runs that file alone. `KVFERRY_SEED=<number>` varies mutations and generated inputs, which are the
//! same on every run without it.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod corpus;
mod dictionary;
mod generate;
mod mutate;
mod run;

use kvferry_fuzz::{TARGETS, Target};
use proptest::prelude::*;

use crate::run::run;

fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).unwrap()
}

/// Each target's test stands in a module of the target's name, by which it can be run alone.
mod splice {
    #[test]
    fn bodies_are_scanned_and_edited_byte_for_byte() {
        crate::run(crate::target("splice"), &crate::generate::json());
    }
}

mod sse {
    #[test]
    fn event_streams_are_the_same_in_every_cut() {
        crate::run(crate::target("sse"), &crate::generate::events());
    }
}

mod headers {
    #[test]
    fn heads_lose_what_must_not_go_on_and_nothing_else() {
        crate::run(crate::target("headers"), &crate::generate::head());
    }
}

mod yaml {
    #[test]
    fn configurations_are_read_strictly_and_refused_in_one_line() {
        crate::run(crate::target("yaml"), &crate::generate::yaml());
    }
}

#[test]
fn every_target_has_seeds_and_words() {
    for target in TARGETS {
        assert!(corpus::load(target.name).len() >= 5, "{}: too few seeds", target.name);
        assert!(dictionary::load(target.name).len() >= 5, "{}: too few words", target.name);
    }
}

#[test]
fn a_broken_property_is_noticed_and_its_input_saved() {
    fn no_x(data: &[u8]) {
        assert!(!data.contains(&b'x'), "there is an x");
    }
    let failed = std::panic::catch_unwind(|| run::check(Target { name: "self-test", run: no_x }, b"axb", 7));
    let message = *failed.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("KVFERRY_SEED=7") && message.contains("there is an x"), "{message}");
    let path = message.split("KVFERRY_FUZZ_INPUT=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"axb");
    std::fs::remove_file(path).unwrap();
}

proptest! {
    #[test]
    fn mutations_are_the_same_for_the_same_seed(seed in any::<u64>()) {
        let seeds = corpus::load("splice");
        let words = dictionary::load("splice");
        let make = || {
            let mut mutator = mutate::Mutator::new(seed, &seeds, &words);
            (0..20).map(|_| mutator.next()).collect::<Vec<_>>()
        };
        let made = make();
        prop_assert_eq!(&made, &make());
        prop_assert!(made.iter().all(|input| input.len() <= mutate::MAX_LEN));
    }
}
