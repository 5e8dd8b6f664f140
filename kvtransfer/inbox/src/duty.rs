//! An engine, and the thread whose duty it is. Others may take the engine over for a moment when nobody is at it, which
//! saves waking the thread: they do what is to be done, and call the thread for what they leave.

use std::ops::DerefMut;

use crate::sync::{Mutex, MutexGuard, lock};
use crate::{Bell, Inbox};

/// See the module: an engine of the type `E`, which obeys orders of the type `C`.
#[derive(Debug)]
pub struct Duty<E, C, B> {
    engine: Mutex<E>,
    inbox: Inbox<C, B>,
}

impl<E, C, B: Bell> Duty<E, C, B> {
    /// For a thread that is awake.
    pub fn new(engine: E, bell: B) -> Self {
        Self { engine: Mutex::new(engine), inbox: Inbox::new(bell) }
    }

    /// What the engine is to do. Whoever has the engine takes it.
    pub const fn inbox(&self) -> &Inbox<C, B> {
        &self.inbox
    }

    /// The engine, once nobody else is at it. For the thread: before it sleeps it looks here for what others have left, after
    /// it has said so to its [inbox](Inbox::sleep).
    pub fn engine(&self) -> impl DerefMut<Target = E> {
        let guard: MutexGuard<'_, E> = lock(&self.engine);
        guard
    }

    /// The engine, if nobody is at it; after a panic of somebody who was, never again.
    pub fn free_engine(&self) -> Option<impl DerefMut<Target = E>> {
        self.engine.try_lock().ok()
    }

    /// Does the thread's work, if nobody is at it: `work` takes the orders, and tells whether it has left something that can
    /// be done without waiting, for which the thread is then called. Whether it was done; if not, whoever has put orders must
    /// [call](Inbox::call).
    pub fn help(&self, work: impl FnOnce(&mut E, &Inbox<C, B>) -> bool) -> bool {
        let left = {
            let Some(mut engine) = self.free_engine() else { return false };
            work(&mut engine, &self.inbox)
        };
        if left {
            self.inbox.call();
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Debug, Default)]
    struct Count(Cell<usize>);

    impl Bell for Count {
        fn ring(&self) {
            self.0.set(self.0.get() + 1);
        }

        fn silence(&self) {}
    }

    fn duty() -> Duty<Vec<u32>, u32, Count> {
        Duty::new(Vec::new(), Count::default())
    }

    #[test]
    fn a_helper_does_what_is_to_be_done_and_the_thread_sleeps_on() {
        let duty = duty();
        assert!(duty.inbox().sleep());
        duty.inbox().put(7);
        let helped = duty.help(|engine, inbox| {
            engine.extend(inbox.take());
            false
        });
        assert!(helped && duty.inbox().bell().0.get() == 0);
        assert_eq!(*duty.engine(), [7]);
    }

    #[test]
    fn the_thread_is_called_for_what_a_helper_leaves() {
        let duty = duty();
        assert!(duty.inbox().sleep());
        assert!(duty.help(|_, _| true));
        assert_eq!(duty.inbox().bell().0.get(), 1);
    }

    #[test]
    fn nobody_helps_while_somebody_is_at_it() {
        let duty = duty();
        let engine = duty.engine();
        assert!(!duty.help(|_, _| unreachable!("the engine is taken")));
        drop(engine);
        assert!(duty.help(|_, _| false));
    }
}
