//! What every fabric promises, held against every fabric there is: one suite, and each case with processes of its own. A
//! case steers its processes through pipes and touches no memory itself; the side that receives bytes verifies them.
//!
//! A new backend is one line in `backend.rs`. `cargo test --test conformance -- shm kill` runs the cases whose names hold
//! all of these words. `KVFERRY_SEED` repeats a run of what is random, `KVFERRY_KILLS` says how often processes are killed.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod backend;
mod cases;
mod command;
mod node;
mod pattern;
mod peer;
mod random;
mod runner;
mod side;
mod tls;

fn main() -> std::process::ExitCode {
    if std::env::var_os(side::PEER).is_some() {
        peer::run();
        return std::process::ExitCode::SUCCESS;
    }
    runner::run(cases::ALL)
}
