//! What is due when. Each thing is due once at most: setting it anew replaces what was set.

use std::collections::{BTreeSet, HashMap};

use super::{ChunkNo, LaneNo, PeerNo, Time, TransferNo};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Due {
    /// A transfer's deadline.
    Deadline(TransferNo),
    /// Pieces of transfers with this peer may be tried again.
    Again(PeerNo),
    /// There may be room again for peers that had none.
    Room,
    /// A chunk should have ended.
    Flight(ChunkNo),
    /// A lane may be tried again, or should have answered.
    Lane(LaneNo),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    order: BTreeSet<(Time, Due)>,
    set: HashMap<Due, Time>,
}

impl Timers {
    /// Sets when something is due.
    pub(super) fn at(&mut self, time: Time, due: Due) {
        self.clear(due);
        self.set.insert(due, time);
        self.order.insert((time, due));
    }

    /// Sets it, unless it is due before that.
    pub(super) fn by(&mut self, time: Time, due: Due) {
        if self.set.get(&due).is_none_or(|set| *set > time) {
            self.at(time, due);
        }
    }

    pub(super) fn clear(&mut self, due: Due) {
        if let Some(time) = self.set.remove(&due) {
            self.order.remove(&(time, due));
        }
    }

    pub(super) fn next(&self) -> Option<Time> {
        self.order.first().map(|(time, _)| *time)
    }

    /// Something that is due.
    pub(super) fn pop(&mut self, now: Time) -> Option<Due> {
        let (_, due) = *self.order.first().filter(|(time, _)| *time <= now)?;
        self.clear(due);
        Some(due)
    }
}
