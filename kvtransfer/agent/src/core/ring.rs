//! The transfers of one peer that have something left to begin, in the order of their turns.
//!
//! What it saves: where thousands wait for full lanes, most differ in nothing that decides over which lane they could go.
//! They are of one *kind* (the same lanes reach their memory), and when one of a kind must wait, so must all.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::TransferNo;

#[derive(Debug, Default)]
pub(super) struct Ring {
    order: VecDeque<(TransferNo, u32)>,
    /// How many there are of each kind.
    kinds: BTreeMap<u32, usize>,
    /// Those with pieces that are to be tried again: each is looked at for itself.
    special: BTreeSet<TransferNo>,
}

impl Ring {
    /// The one at that place, and its kind.
    pub(super) fn get(&self, at: usize) -> Option<(TransferNo, u32)> {
        self.order.get(at).copied()
    }

    pub(super) fn push_back(&mut self, no: TransferNo, kind: u32) {
        *self.kinds.entry(kind).or_default() += 1;
        self.order.push_back((no, kind));
    }

    pub(super) fn push_front(&mut self, no: TransferNo, kind: u32) {
        *self.kinds.entry(kind).or_default() += 1;
        self.order.push_front((no, kind));
    }

    /// Its turn is over.
    pub(super) fn rotate(&mut self, at: usize) {
        if let Some(one) = self.order.remove(at) {
            self.order.push_back(one);
        }
    }

    pub(super) fn remove_at(&mut self, at: usize) {
        if let Some((no, kind)) = self.order.remove(at) {
            self.special.remove(&no);
            if let Some(count) = self.kinds.get_mut(&kind) {
                *count -= 1;
                if *count == 0 {
                    self.kinds.remove(&kind);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, no: TransferNo) {
        if let Some(at) = self.order.iter().position(|(other, _)| *other == no) {
            self.remove_at(at);
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether it has pieces that are to be tried again.
    pub(super) fn set_special(&mut self, no: TransferNo, special: bool) {
        if special {
            self.special.insert(no);
        } else {
            self.special.remove(&no);
        }
    }

    pub(super) fn is_special(&self, no: TransferNo) -> bool {
        self.special.contains(&no)
    }

    /// Whether all wait if these kinds do.
    pub(super) fn are_all(&self, kinds: &[u32]) -> bool {
        self.special.is_empty() && self.kinds.len() == kinds.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_as_long_as_there_is_one_of_them_and_special_ones_are_looked_at() {
        let mut ring = Ring::default();
        for (no, kind) in [(1, 3), (2, 3), (3, 1)] {
            ring.push_back(TransferNo(no), kind);
        }
        assert!(!ring.are_all(&[3]) && ring.are_all(&[3, 1]));
        ring.rotate(0);
        assert_eq!(ring.get(0), Some((TransferNo(2), 3)));
        ring.remove(TransferNo(2));
        assert!(ring.are_all(&[3, 1]), "there is another one");
        ring.set_special(TransferNo(3), true);
        assert!(!ring.are_all(&[3, 1]) && ring.is_special(TransferNo(3)));
        ring.remove(TransferNo(3));
        assert!(ring.are_all(&[3]));
        ring.clear();
        assert!(ring.are_all(&[]) && ring.get(0).is_none());
    }
}
