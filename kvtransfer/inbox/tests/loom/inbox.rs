//! An inbox: callers push, the thread takes and sleeps.

use std::sync::Arc;

use kvferry_inbox::{Bell, Inbox};
use loom::sync::Mutex;
use loom::thread;

use crate::bell::{Answered, Gong};

/// What the thread and its callers do with an inbox, so that one that is wrong can stand in.
trait Protocol: Send + Sync + 'static {
    fn push(&self, order: u32);
    fn take(&self) -> Vec<u32>;
    fn sleep(&self) -> bool;
    fn woken(&self);
    fn gong(&self) -> &Gong;
}

impl Protocol for Inbox<u32, Gong> {
    fn push(&self, order: u32) {
        Inbox::push(self, order);
    }

    fn take(&self) -> Vec<u32> {
        Inbox::take(self)
    }

    fn sleep(&self) -> bool {
        Inbox::sleep(self)
    }

    fn woken(&self) {
        Inbox::woken(self);
    }

    fn gong(&self) -> &Gong {
        self.bell()
    }
}

/// Wrong: it looks whether there are orders, and only then says that it sleeps.
#[derive(Default)]
struct SaysItLate {
    orders: Mutex<Vec<u32>>,
    asleep: Mutex<bool>,
    gong: Gong,
}

impl Protocol for SaysItLate {
    fn push(&self, order: u32) {
        self.orders.lock().unwrap().push(order);
        let asleep = std::mem::take(&mut *self.asleep.lock().unwrap());
        if asleep {
            self.gong.ring();
        }
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.orders.lock().unwrap())
    }

    fn sleep(&self) -> bool {
        let idle = self.orders.lock().unwrap().is_empty();
        *self.asleep.lock().unwrap() = idle;
        idle
    }

    fn woken(&self) {
        *self.asleep.lock().unwrap() = false;
        self.gong.silence();
    }

    fn gong(&self) -> &Gong {
        &self.gong
    }
}

/// Two callers, one of whom gives two orders, and the thread, until it has them all: none is lost, those of one caller come
/// in their order, and nobody rings more than once for one sleep.
fn all_orders_come(inbox: impl Protocol) {
    let inbox = Arc::new(inbox);
    let callers = [vec![10, 11], vec![20]].map(|orders| {
        let inbox = Arc::clone(&inbox);
        thread::spawn(move || orders.into_iter().for_each(|order| inbox.push(order)))
    });
    let (mut taken, mut sleeps) = (Vec::new(), 0);
    loop {
        taken.extend(inbox.take());
        if taken.len() == 3 {
            break;
        }
        if inbox.sleep() {
            sleeps += 1;
            inbox.gong().wait();
            inbox.woken();
        }
    }
    for caller in callers {
        caller.join().unwrap();
    }
    let mut first = taken.clone();
    first.retain(|order| *order < 20);
    assert_eq!((first, taken.contains(&20)), (vec![10, 11], true));
    assert!(inbox.gong().times() <= sleeps, "{} rings, {sleeps} sleeps", inbox.gong().times());
}

#[test]
fn no_order_is_lost_and_no_sleeper_misses_its_bell_and_nobody_rings_twice_for_a_sleep() {
    loom::model(|| all_orders_come(Inbox::new(Gong::default())));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_thread_that_looks_before_it_says_that_it_sleeps_is_found_out() {
    loom::model(|| all_orders_come(SaysItLate::default()));
}

/// A thread may end in the middle of anything; whoever waits hears of it, whether the order came before or after.
#[test]
fn nobody_waits_for_a_thread_that_has_ended() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new(Gong::default()));
        let callers = [(), ()].map(|()| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                let answer = Arc::new(Gong::default());
                inbox.push(Answered(Arc::clone(&answer)));
                answer.wait();
                assert_eq!(answer.times(), 1);
            })
        });
        drop(inbox.take());
        inbox.close();
        for caller in callers {
            caller.join().unwrap();
        }
        assert!(inbox.is_empty());
    });
}

/// Orders out of turn are for one thread, too: what it leaves it finds before it sleeps.
#[test]
fn what_is_taken_out_of_turn_is_taken_once() {
    loom::model(|| {
        let inbox = Arc::new(Inbox::new(Gong::default()));
        let caller = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || (1..4).for_each(|order| inbox.push(order)))
        };
        let odd = inbox.take_if(|order| *order % 2 == 1);
        let mut others = Vec::new();
        while odd.len() + others.len() < 3 {
            others.extend(inbox.take());
            if odd.len() + others.len() < 3 && inbox.sleep() {
                inbox.bell().wait();
                inbox.woken();
            }
        }
        caller.join().unwrap();
        others.extend(odd);
        others.sort_unstable();
        assert_eq!(others, [1, 2, 3]);
    });
}
