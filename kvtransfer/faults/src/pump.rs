//! Between the inner fabric's events and those that are told: here the dice are rolled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::{Direction, Event};
use kvferry_transfer::{Error, PeerId, Place, Segment, TransferId};
use nix::sys::eventfd::EventFd;

use crate::memory::Memory;
use crate::plan::{Counts, Dice, Plan};
use crate::queue::Queue;

/// How long an event that is said out of order is held back.
const MOMENT: Duration = Duration::from_millis(2);

/// A transfer that has not ended.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) peer: PeerId,
    pub(crate) direction: Direction,
    pub(crate) segments: Arc<[Segment]>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) plan: Plan,
    pub(crate) counts: Counts,
    dice: Dice,
    pub(crate) queue: Queue,
    /// Events that are held back, of which peer, and until when.
    held: Vec<(Instant, Option<PeerId>, Event)>,
    pub(crate) asked: HashMap<TransferId, Asked>,
    pub(crate) own: Memory,
    /// The regions of whoever this side writes to.
    pub(crate) far: Option<Memory>,
}

impl State {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            counts: Counts::default(),
            dice: Dice::new(plan.seed),
            queue: Queue::default(),
            held: Vec::new(),
            asked: HashMap::new(),
            own: Memory::default(),
            far: None,
        }
    }

    /// Whether a fault with that chance happens now.
    pub(crate) fn rolls(&mut self, chance: u32) -> bool {
        let left = self.plan.at_most == 0 || self.counts.total() < self.plan.at_most;
        chance > 0 && left && self.dice.below(1000) < chance.into()
    }

    /// An event of the inner fabric. Returns the peer that is to be lost, if one is.
    pub(crate) fn take(&mut self, event: Event, now: Instant, wake: &EventFd) -> Option<PeerId> {
        match event {
            Event::Done(id) | Event::Failed(id, _) => return self.take_end(id, event, now, wake),
            Event::Notified(..) => {
                if self.rolls(self.plan.duplicate_notify) {
                    self.counts.duplicated += 1;
                    self.queue.push(event.clone(), wake);
                }
                self.queue.push(event, wake);
            }
            Event::Freed(_) if self.rolls(self.plan.delay) => {
                self.counts.delayed += 1;
                self.held.push((now + self.plan.delay_by, None, event));
            }
            Event::Lost(peer, _) => {
                // What is held of it comes before.
                self.let_go(|_, of| of == Some(peer), wake);
                self.queue.push(event, wake);
            }
            Event::Connected(..) | Event::Freed(_) => self.queue.push(event, wake),
        }
        None
    }

    fn take_end(&mut self, id: TransferId, event: Event, now: Instant, wake: &EventFd) -> Option<PeerId> {
        let Some(asked) = self.asked.remove(&id) else {
            self.queue.push(event, wake);
            return None;
        };
        let done = matches!(event, Event::Done(_));
        if self.rolls(self.plan.drop) {
            self.counts.dropped += 1;
            return None;
        }
        let mut event = event;
        if done && self.rolls(self.plan.fail_done) {
            self.counts.failed_ends += 1;
            event = Event::Failed(id, Error::System("a fault of the plan", 5));
        } else if done && self.rolls(self.plan.corrupt) && self.spoil(&asked) {
            self.counts.corrupted += 1;
        }
        let lost = done && self.rolls(self.plan.lose_peer);
        self.counts.lost_peers += u64::from(lost);
        if self.rolls(self.plan.delay) {
            self.counts.delayed += 1;
            self.held.push((now + self.plan.delay_by, Some(asked.peer), event));
        } else if self.rolls(self.plan.reorder) {
            self.counts.reordered += 1;
            self.held.push((now + MOMENT, Some(asked.peer), event));
        } else {
            self.queue.push(event, wake);
        }
        lost.then_some(asked.peer)
    }

    /// Changes one byte where a transfer's bytes arrived.
    fn spoil(&mut self, asked: &Asked) -> bool {
        let bytes: u64 = asked.segments.iter().map(|segment| segment.len).sum();
        if bytes == 0 {
            return false;
        }
        let (mut left, by) = (self.dice.below(bytes), self.dice.below(255) + 1);
        let by = u8::try_from(by).unwrap_or(1);
        let Some(segment) = asked.segments.iter().find(|segment| {
            let here = left < segment.len;
            left -= if here { 0 } else { segment.len };
            here
        }) else {
            return false;
        };
        let at = |place: Place| Place { offset: place.offset + left, ..place };
        match (asked.direction, &self.far) {
            (Direction::Read, _) => self.own.spoil(at(segment.local), by),
            (Direction::Write, Some(far)) => far.spoil(at(segment.remote), by),
            (Direction::Write, None) => false,
        }
    }

    /// Says what was held back long enough. `all`: everything.
    pub(crate) fn release(&mut self, now: Instant, all: bool, wake: &EventFd) {
        self.let_go(|until, _| all || until <= now, wake);
    }

    /// When something held is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.held.iter().map(|(until, ..)| *until).min()
    }

    fn let_go(&mut self, which: impl Fn(Instant, Option<PeerId>) -> bool, wake: &EventFd) {
        let (go, stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.held).into_iter().partition(|(until, peer, _)| which(*until, *peer));
        self.held = stay;
        for (_, _, event) in go {
            self.queue.push(event, wake);
        }
    }
}
