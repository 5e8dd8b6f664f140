//! Which of the process's threads still run.
//!
//! What it guards: a thread that ended by itself, most likely by a panic, does not come back, and its share of the
//! connections is lost while the others go on as if nothing had happened. Whoever restarts processes has to be told.

use std::sync::{Arc, Mutex, PoisonError};

/// The threads that should run and do not. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Vitals(Arc<Mutex<Vec<String>>>);

impl Vitals {
    /// What is wrong, if anything is.
    pub fn trouble(&self) -> Option<String> {
        let ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = || ended.iter().map(|name| format!("{name} has ended")).collect::<Vec<_>>();
        (!ended.is_empty()).then(|| named().join(", "))
    }

    /// Runs a thread's work. If it ends, or panics, while `wanted` still says that it should go on, that is trouble for as
    /// long as the process lives.
    pub fn watch(&self, name: &str, wanted: impl Fn() -> bool, work: impl FnOnce()) {
        let _watched = Watched { vitals: self, name, wanted };
        work();
    }

    fn lost(&self, name: &str) {
        tracing::error!(
            thread = name,
            "a thread has ended before the process was told to stop; restart the process"
        );
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    }
}

/// Dropped when the thread ends, also by a panic.
struct Watched<'a, W: Fn() -> bool> {
    vitals: &'a Vitals,
    name: &'a str,
    wanted: W,
}

impl<W: Fn() -> bool> Drop for Watched<'_, W> {
    fn drop(&mut self) {
        if (self.wanted)() {
            self.vitals.lost(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    fn run(vitals: &Vitals, name: &'static str, wanted: bool, work: impl FnOnce() + Send + 'static) {
        let vitals = vitals.clone();
        let _ = thread::spawn(move || vitals.watch(name, || wanted, work)).join();
    }

    #[test]
    fn threads_that_ended_or_panicked_are_told_of_by_name() {
        let vitals = Vitals::default();
        assert_eq!(vitals.trouble(), None);
        run(&vitals, "worker-1", true, || panic!("on purpose"));
        assert_eq!(vitals.trouble().as_deref(), Some("worker-1 has ended"));
        run(&vitals, "accept", true, || {});
        assert_eq!(vitals.trouble().as_deref(), Some("worker-1 has ended, accept has ended"));
    }

    #[test]
    fn threads_that_were_told_to_stop_are_no_trouble() {
        let vitals = Vitals::default();
        run(&vitals, "worker-0", false, || {});
        run(&vitals, "worker-1", false, || panic!("too late to matter"));
        assert_eq!(vitals.trouble(), None);
    }

    #[test]
    fn a_thread_that_runs_is_no_trouble() {
        let vitals = Vitals::default();
        let ran = AtomicBool::new(false);
        vitals.watch(
            "worker-0",
            || false,
            || {
                ran.store(vitals.trouble().is_none(), Ordering::Relaxed);
            },
        );
        assert!(ran.load(Ordering::Relaxed));
    }
}
