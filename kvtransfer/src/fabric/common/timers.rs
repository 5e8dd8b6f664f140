//! What is due when.

use std::collections::BTreeMap;
use std::time::Instant;

/// A moment and a number, so that two at the same moment differ.
pub(crate) type Alarm = (Instant, u64);

/// Things of the type `D` to look after, each at its time.
#[derive(Debug)]
pub(crate) struct Timers<D> {
    due: BTreeMap<Alarm, D>,
    next: u64,
}

impl<D> Default for Timers<D> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), next: 0 }
    }
}

impl<D> Timers<D> {
    /// Adds something.
    pub(crate) fn add(&mut self, at: Instant, due: D) -> Alarm {
        let alarm = (at, self.next);
        self.next += 1;
        self.due.insert(alarm, due);
        alarm
    }

    /// Takes it back.
    pub(crate) fn remove(&mut self, alarm: Option<Alarm>) {
        if let Some(alarm) = alarm {
            self.due.remove(&alarm);
        }
    }

    /// The earliest moment.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// The earliest of what is due by now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<D> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_what_was_taken_back_does_not() {
        let (mut timers, now) = (Timers::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        timers.add(later, 'c');
        let taken_back = timers.add(now, 'a');
        timers.add(now, 'b');
        timers.remove(Some(taken_back));
        assert_eq!((timers.next(), timers.take(now), timers.take(now)), (Some(now), Some('b'), None));
        assert_eq!((timers.take(later), timers.next()), (Some('c'), None));
    }
}
