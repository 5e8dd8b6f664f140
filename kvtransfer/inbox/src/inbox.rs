//! What others want of a thread, in order. The thread is woken only if it sleeps, and whoever waits for an answer when it
//! ends hears that nobody will give it.

use crate::sync::{Mutex, lock};

/// What a thread sleeps on.
pub trait Bell {
    /// Wakes the thread; if it is not asleep yet, its next sleep ends at once. Called with no lock held.
    fn ring(&self);

    /// What was rung before counts no more.
    fn silence(&self);
}

/// Orders of the type `C` for one thread, which a bell of the type `B` wakes.
///
/// The thread takes orders until there are none, says that it [sleeps](Self::sleep), and if so listens for the bell; then it
/// says that it is [woken](Self::woken), and begins anew. It may be woken for nothing, and never sleeps on an order.
#[derive(Debug)]
pub struct Inbox<C, B> {
    queue: Mutex<Queue<C>>,
    bell: B,
}

#[derive(Debug)]
struct Queue<C> {
    orders: Vec<C>,
    /// Whether the next order must ring. Whoever takes the flag down rings, so it is rung once for each sleep.
    asleep: bool,
    closed: bool,
}

impl<C, B: Bell> Inbox<C, B> {
    /// An empty one, for a thread that is awake.
    pub fn new(bell: B) -> Self {
        Self { queue: Mutex::new(Queue { orders: Vec::new(), asleep: false, closed: false }), bell }
    }

    /// Adds an order, and wakes the thread for it. Once closed, the order is dropped.
    pub fn push(&self, order: C) {
        if self.add(order, true) {
            self.bell.ring();
        }
    }

    /// Adds an order that is obeyed at once by whoever adds it, or else [called out](Self::call). Once closed, the order is
    /// dropped.
    pub fn put(&self, order: C) {
        self.add(order, false);
    }

    /// Whether the bell is to be rung for it.
    fn add(&self, order: C, wake: bool) -> bool {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return false;
        }
        queue.orders.push(order);
        wake && std::mem::take(&mut queue.asleep)
    }

    /// Wakes the thread if it sleeps.
    pub fn call(&self) {
        let asleep = std::mem::take(&mut lock(&self.queue).asleep);
        if asleep {
            self.bell.ring();
        }
    }

    /// All that is to be done.
    pub fn take(&self) -> Vec<C> {
        std::mem::take(&mut lock(&self.queue).orders)
    }

    /// Takes out what `wanted` accepts, in order, and leaves the rest.
    pub fn take_if(&self, wanted: impl FnMut(&mut C) -> bool) -> Vec<C> {
        lock(&self.queue).orders.extract_if(.., wanted).collect()
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        lock(&self.queue).orders.is_empty()
    }

    /// Whether the thread may listen for the bell: there is nothing to be done, and it rings once there is.
    pub fn sleep(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.asleep = queue.orders.is_empty();
        queue.asleep
    }

    /// The thread is awake: nobody rings any more. What was rung may still be heard.
    pub fn get_up(&self) {
        lock(&self.queue).asleep = false;
    }

    /// The thread is awake, and what was rung counts no more: it looks for orders now.
    pub fn woken(&self) {
        self.get_up();
        self.bell.silence();
    }

    /// Somebody else has heard the bell, who takes the orders next: the thread may sleep on, and is woken for what comes
    /// after them.
    pub fn overheard(&self) {
        lock(&self.queue).asleep = true;
    }

    /// Nobody obeys orders any more: those that are here are dropped, and so is every later one.
    pub fn close(&self) {
        let dropped = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.orders)
        };
        // Without the lock: dropping an order tells whoever waits for its answer.
        drop(dropped);
    }

    /// What the thread listens for.
    pub const fn bell(&self) -> &B {
        &self.bell
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;

    /// Counts how often it is rung.
    #[derive(Debug, Default)]
    struct Count(AtomicUsize);

    impl Bell for Count {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn silence(&self) {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    fn inbox<C>() -> Inbox<C, Count> {
        Inbox::new(Count::default())
    }

    fn rung<C>(inbox: &Inbox<C, Count>) -> usize {
        inbox.bell().0.load(Ordering::Relaxed)
    }

    #[test]
    fn a_sleeper_is_woken_once_and_nobody_else() {
        let inbox = inbox();
        inbox.push(1);
        assert!(rung(&inbox) == 0 && !inbox.sleep(), "there is something to be done");
        assert_eq!(inbox.take(), [1]);
        assert!(inbox.sleep() && rung(&inbox) == 0);
        inbox.push(2);
        inbox.push(3);
        assert_eq!(rung(&inbox), 1);
        inbox.woken();
        assert_eq!(rung(&inbox), 0);
        assert_eq!(inbox.take(), [2, 3]);
    }

    #[test]
    fn what_is_put_wakes_nobody_until_it_is_called_out() {
        let inbox = inbox();
        assert!(inbox.sleep());
        inbox.put(1);
        assert_eq!(rung(&inbox), 0);
        inbox.call();
        inbox.call();
        assert_eq!(rung(&inbox), 1);
    }

    #[test]
    fn a_bell_that_somebody_else_has_heard_rings_again() {
        let inbox = inbox();
        assert!(inbox.sleep());
        inbox.push(1);
        inbox.overheard();
        assert_eq!(inbox.take(), [1]);
        inbox.push(2);
        assert_eq!(rung(&inbox), 2);
    }

    #[test]
    fn whoever_waits_for_an_answer_hears_that_nobody_gives_it() {
        let inbox: Inbox<SyncSender<()>, _> = inbox();
        let ((first, waits), (second, waits_too)) = (sync_channel(1), sync_channel(1));
        inbox.push(first);
        inbox.close();
        inbox.push(second);
        assert!(waits.recv().is_err() && waits_too.recv().is_err());
    }

    #[test]
    fn some_can_be_taken_out_of_turn() {
        let inbox = inbox();
        (0..4).for_each(|number| inbox.push(number));
        let taken = inbox.take_if(|number| *number % 2 == 1);
        assert_eq!((taken, inbox.take(), inbox.is_empty()), (vec![1, 3], vec![0, 2], true));
    }

    #[test]
    fn orders_of_many_threads_all_come_and_each_threads_in_its_order() {
        const THREADS: usize = 4;
        const ORDERS: usize = if cfg!(miri) { 20 } else { 2_000 };
        let (inbox, begin) = (Arc::new(inbox()), Arc::new(Barrier::new(THREADS)));
        let threads = (0..THREADS).map(|thread| {
            let (inbox, begin) = (Arc::clone(&inbox), Arc::clone(&begin));
            thread::spawn(move || {
                begin.wait();
                (0..ORDERS).for_each(|number| inbox.push((thread, number)));
            })
        });
        let threads: Vec<_> = threads.collect();
        let mut next = [0; THREADS];
        while next.iter().sum::<usize>() < THREADS * ORDERS {
            for (thread, number) in inbox.take() {
                assert_eq!(number, std::mem::replace(&mut next[thread], number + 1));
            }
            thread::yield_now();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(inbox.is_empty());
    }
}
