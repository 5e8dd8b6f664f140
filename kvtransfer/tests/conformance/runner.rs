//! Runs cases, one after the other, and ends the run with a message if one of them hangs.

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::backend::{self, Backend};
use crate::random;

/// A case: what is promised, and how it is seen.
pub struct Case {
    pub name: &'static str,
    pub run: fn(&'static Backend, seed: u64),
    /// How long it may take. Machines are slow and shared: this is for what never ends.
    pub limit: fn() -> Duration,
}

/// Runs those whose names hold all words of the command line. A backend's name stands for it alone.
pub fn run(cases: &'static [Case]) -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let list = std::env::args().any(|word| word == "--list");
    let seed = random::seed();
    let (mut passed, mut failed, mut left_out) = (0, Vec::new(), 0);
    let usable = backend::ALL.iter().filter(|backend| {
        let missing = (backend.missing)();
        if let Some(why) = &missing {
            println!("SKIPPED, all cases of {}: {why}", backend.name);
        }
        missing.is_none()
    });
    for (backend, case) in usable.flat_map(|backend| cases.iter().map(move |case| (backend, case))) {
        let name = format!("{}::{}", backend.name, case.name);
        let is_backend = |word: &String| backend::ALL.iter().any(|known| known.name == word);
        let named = |word: &String| {
            if is_backend(word) { backend.name == word } else { name.contains(word.as_str()) }
        };
        if !words.iter().all(named) {
            left_out += 1;
        } else if list {
            println!("{name}: test");
        } else if runs(&name, backend, case, seed) {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    if list {
        return ExitCode::SUCCESS;
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {result}. {passed} passed; {} failed; {left_out} filtered out\n", failed.len());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {failed:#?}\nrepeat with KVFERRY_SEED={seed}");
    ExitCode::FAILURE
}

fn runs(name: &str, backend: &'static Backend, case: &'static Case, seed: u64) -> bool {
    let (ended, end) = mpsc::channel();
    let start = Instant::now();
    let run = move || {
        let result = panic::catch_unwind(AssertUnwindSafe(|| (case.run)(backend, seed)));
        // Nobody listens if it took too long.
        ended.send(result.is_ok()).ok();
    };
    std::thread::Builder::new().name(name.into()).spawn(run).unwrap();
    let Ok(ok) = end.recv_timeout((case.limit)()) else {
        println!("test {name} ... HANGS: no end after {:?}; KVFERRY_SEED={seed}", start.elapsed());
        // Its processes end when their pipes do.
        std::process::exit(1);
    };
    println!("test {name} ... {} ({:.1} s)", if ok { "ok" } else { "FAILED" }, start.elapsed().as_secs_f64());
    ok
}
