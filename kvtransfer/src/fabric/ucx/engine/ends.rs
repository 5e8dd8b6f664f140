//! What became of operations. Most of them move a block, and the blocks of one turn end in a row: they are looked at once,
//! so that a small block costs little more here than its copy.

use std::mem;

use super::{Engine, Op};
use crate::fabric::ucx::raw::{Posted, Status};
use crate::{Error, PeerId, TransferId};

/// Operations of one transfer that have ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moved {
    peer: PeerId,
    transfer: TransferId,
    ops: usize,
    bytes: u64,
}

impl Moved {
    const fn of(op: Op, result: Result<(), Status>) -> Option<Self> {
        match (op, result) {
            (Op::Data(peer, transfer, bytes), Ok(())) => Some(Self { peer, transfer, ops: 1, bytes }),
            _ => None,
        }
    }

    /// Takes `next` in, if it is of the same transfer.
    fn join(&mut self, next: Self) -> bool {
        let same = (self.peer, self.transfer) == (next.peer, next.transfer);
        if same {
            self.ops += next.ops;
            self.bytes += next.bytes;
        }
        same
    }
}

impl Engine {
    /// Takes note of what became of posting an operation.
    pub(super) fn posted(&mut self, op: Op, result: Result<Posted, Status>) {
        if let Some(peer) = self.peers.get_mut(&op.peer()) {
            peer.under_way += 1;
        }
        match result {
            Ok(Posted::Pending) => {}
            // Later in this turn: whoever posts is in the middle of something.
            Ok(Posted::Done) => self.ended.push((op, Ok(()))),
            Err(status) => self.ended.push((op, Err(status))),
        }
    }

    /// Operations have ended, in that order.
    pub(super) fn all_finished(&mut self, finished: impl Iterator<Item = (Op, Result<(), Status>)>) {
        let mut run: Option<Moved> = None;
        for (op, result) in finished {
            let moved = Moved::of(op, result);
            if run.as_mut().zip(moved).is_some_and(|(run, moved)| run.join(moved)) {
                continue;
            }
            if let Some(run) = mem::replace(&mut run, moved) {
                self.moved(run);
            }
            if moved.is_none() {
                self.finished(op, result);
            }
        }
        if let Some(run) = run {
            self.moved(run);
        }
    }

    /// Bytes have been moved.
    fn moved(&mut self, moved: Moved) {
        if self.data_ended(moved) {
            self.go_on(moved.peer, moved.transfer);
        }
    }

    /// Operations of one transfer are under way no more. `false` if their peer is gone.
    fn data_ended(&mut self, Moved { peer, transfer, ops, bytes }: Moved) -> bool {
        let Some(peer) = self.peers.get_mut(&peer) else { return false };
        peer.under_way -= ops;
        peer.moving -= ops;
        peer.moving_bytes -= bytes;
        if let Some(transfer) = self.transfers.get_mut(&transfer) {
            transfer.moving -= ops;
        }
        true
    }

    /// There is room for more, and maybe nothing left to wait for.
    fn go_on(&mut self, peer: PeerId, transfer: TransferId) {
        self.activate(peer);
        self.settle(transfer);
        self.part_on(peer);
    }

    /// An operation has ended.
    fn finished(&mut self, op: Op, result: Result<(), Status>) {
        let id = op.peer();
        if let Op::Data(peer, transfer, bytes) = op {
            if !self.data_ended(Moved { peer, transfer, ops: 1, bytes }) {
                return;
            }
        } else {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            peer.under_way -= 1;
            match op {
                Op::Meet(_) => peer.reached = result.is_ok(),
                Op::Message(_, len) => peer.unsent -= len,
                Op::Flush(_, transfer) => {
                    peer.moving -= 1;
                    if let Some(transfer) = self.transfers.get_mut(&transfer) {
                        transfer.flushing = false;
                    }
                }
                Op::Bye(_) => self.cut(id),
                Op::Data(..) | Op::Close(_) => {}
            }
        }
        if let Err(status) = result {
            self.broke(id, status);
        }
        match op {
            Op::Meet(_) => self.try_up(id),
            Op::Message(..) => self.ask_on(id),
            Op::Data(_, transfer, _) | Op::Flush(_, transfer) => return self.go_on(id, transfer),
            Op::Bye(_) | Op::Close(_) => {}
        }
        self.part_on(id);
    }

    /// Something on the way to a peer has failed: the way is of no use any more.
    pub(super) fn broke(&mut self, id: PeerId, status: Status) {
        let why = format!("the way to it broke: {}", status.text(self.worker.ucx()));
        self.lose_quietly(id, &Error::Lost(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(1);

    #[test]
    fn only_what_ended_well_and_belongs_to_the_same_transfer_is_looked_at_together() {
        let data = |transfer, bytes| Moved::of(Op::Data(PEER, TransferId(transfer), bytes), Ok(()));
        let mut run = data(7, 10).unwrap();
        assert!(run.join(data(7, 5).unwrap()));
        assert!(!run.join(data(8, 5).unwrap()), "of another transfer");
        assert_eq!(run, Moved { peer: PEER, transfer: TransferId(7), ops: 2, bytes: 15 });
        assert_eq!(Moved::of(Op::Flush(PEER, TransferId(7)), Ok(())), None);
    }
}
