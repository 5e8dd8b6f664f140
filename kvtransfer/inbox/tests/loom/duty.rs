//! A duty: callers put orders and do them at once if nobody is at the engine; the thread does what they leave. As in the
//! fabric over TCP, where the bell is heard by whichever of them asks the system first.

use std::collections::VecDeque;
use std::sync::Arc;

use kvferry_inbox::Duty;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::bell::{Answered, Gong};

/// Takes two turns for each order: one to begin, one to end it.
#[derive(Debug, Default)]
struct Engine {
    begun: VecDeque<Answered>,
}

type Shift = Duty<Engine, Answered, Gong>;

impl Engine {
    fn turn(&mut self, orders: Vec<Answered>) {
        self.begun.pop_front();
        self.begun.extend(orders);
    }

    fn has_work(&self) -> bool {
        !self.begun.is_empty()
    }
}

/// What a helper does right, or leaves out.
#[derive(Debug, Clone, Copy)]
struct Helper {
    /// It says so when it has heard the bell that was meant for the thread.
    owns_up: bool,
    /// It tells what it leaves.
    hands_over: bool,
}

const GOOD: Helper = Helper { owns_up: true, hands_over: true };

impl Helper {
    fn help(self, shift: &Shift) -> bool {
        shift.help(|engine, inbox| {
            if inbox.bell().overhear() && self.owns_up {
                inbox.overheard();
            }
            engine.turn(inbox.take());
            engine.has_work() && self.hands_over
        })
    }

    /// Gives an order, and waits for its end.
    fn call(self, shift: &Shift) {
        let answer = Arc::new(Gong::default());
        shift.inbox().put(Answered(Arc::clone(&answer)));
        if !self.help(shift) {
            shift.inbox().call();
        }
        answer.wait();
    }
}

/// The thread, until it is told to stop.
fn serve(shift: &Shift, stopping: &AtomicBool) {
    while !stopping.load(Ordering::SeqCst) {
        let idle = shift.inbox().sleep() && !stopping.load(Ordering::SeqCst) && !shift.engine().has_work();
        if idle {
            shift.inbox().bell().hear();
        }
        shift.inbox().get_up();
        shift.engine().turn(shift.inbox().take());
    }
}

/// Callers that each give so many orders and wait for each; and the thread, which is stopped at the end.
fn all_callers_are_answered(callers: &'static [usize], helper: Helper) {
    let shift = Arc::new(Shift::new(Engine::default(), Gong::default()));
    let stopping = Arc::new(AtomicBool::new(false));
    let server = {
        let (shift, stopping) = (Arc::clone(&shift), Arc::clone(&stopping));
        thread::spawn(move || serve(&shift, &stopping))
    };
    let (mine, others) = callers.split_first().unwrap();
    let others: Vec<_> = others
        .iter()
        .map(|orders| {
            let shift = Arc::clone(&shift);
            thread::spawn(move || (0..*orders).for_each(|_| helper.call(&shift)))
        })
        .collect();
    (0..*mine).for_each(|_| helper.call(&shift));
    for caller in others {
        caller.join().unwrap();
    }
    assert!(shift.inbox().is_empty());
    stopping.store(true, Ordering::SeqCst);
    shift.inbox().call();
    server.join().unwrap();
    assert!(!shift.engine().has_work());
}

/// How often threads are interrupted in the middle of something, at most, in one order. Two find the faults that are put in
/// below; three take seconds, six many minutes.
const PREEMPTIONS: usize = 3;

fn model(callers: &'static [usize], helper: Helper) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(move || all_callers_are_answered(callers, helper));
}

#[test]
fn a_caller_who_helps_itself_is_answered_each_time() {
    model(&[2], GOOD);
}

#[test]
fn of_two_callers_who_help_each_other_both_are_answered() {
    model(&[1, 1], GOOD);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_helper_that_leaves_work_and_does_not_say_so_is_found_out() {
    model(&[1], Helper { hands_over: false, ..GOOD });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_helper_that_hears_the_threads_bell_and_does_not_say_so_is_found_out() {
    model(&[1, 1], Helper { owns_up: false, ..GOOD });
}
