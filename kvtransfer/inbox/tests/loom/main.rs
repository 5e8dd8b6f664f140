//! Every order in which threads can meet in an inbox or a duty, tried by loom. Whoever sleeps and is not woken stands still
//! for good here, and loom calls that a deadlock; so a test that ends is one in which nobody was forgotten. Three tests hold
//! a protocol that is wrong in one small thing, and must fail: they show that the others could.
//!
//! `make models`, or `RUSTFLAGS="--cfg loom" cargo test -p kvferry-inbox --release --test loom --target-dir target/loom`: about a
//! minute on two idle cores.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod bell;
mod duty;
mod inbox;
