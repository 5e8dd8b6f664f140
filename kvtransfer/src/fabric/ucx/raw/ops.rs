//! Operations under way, by number, each with what must not go before it has ended.

use std::rc::Rc;

use super::{Mapped, RemoteKey};

/// What an operation uses.
#[derive(Debug)]
pub(super) enum Held {
    Nothing,
    Message(#[expect(dead_code, reason = "kept, not read")] Vec<u8>),
    Memory(
        #[expect(dead_code, reason = "kept, not read")] Rc<Mapped>,
        #[expect(dead_code, reason = "kept, not read")] Rc<RemoteKey>,
    ),
}

/// What became of asking for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Posted {
    /// It has ended well.
    Done,
    /// It will be told by [`Worker::news`](super::Worker::news).
    Pending,
}

#[derive(Debug)]
struct Op<T> {
    tag: T,
    held: Held,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Ops<T> {
    slots: Vec<Option<Op<T>>>,
    free: Vec<usize>,
}

impl<T> Default for Ops<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Ops<T> {
    pub(super) fn add(&mut self, tag: T, held: Held) -> usize {
        let op = Some(Op { tag, held });
        if let Some(number) = self.free.pop() {
            self.slots[number] = op;
            return number;
        }
        self.slots.push(op);
        self.slots.len() - 1
    }

    /// Lets go of what it held.
    pub(super) fn remove(&mut self, number: usize) -> Option<T> {
        let Op { tag, held } = self.slots.get_mut(number)?.take()?;
        drop(held);
        self.free.push(number);
        Some(tag)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_names_one_operation_until_it_has_ended() {
        let mut ops = Ops::default();
        let (one, two) = (ops.add('a', Held::Nothing), ops.add('b', Held::Message(vec![1])));
        assert_eq!((ops.remove(one), ops.remove(one), ops.len()), (Some('a'), None, 1));
        let three = ops.add('c', Held::Nothing);
        assert_eq!(three, one, "numbers are used again");
        assert_eq!((ops.remove(two), ops.remove(three), ops.remove(99)), (Some('b'), Some('c'), None));
        assert_eq!(ops.len(), 0);
    }
}
