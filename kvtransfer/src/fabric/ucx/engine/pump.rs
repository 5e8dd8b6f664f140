//! Posts operations, in turns: peers take turns, and with each peer its transfers do. So a transfer of 40 GiB and one of
//! 10 MiB share the way evenly for as long as both have something to move.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Engine, Op};
use crate::fabric::Direction;
use crate::fabric::ucx::limits::{TURN_OPS, TURNS_AT_ONCE, WINDOW_OPS};
use crate::fabric::ucx::raw::{Mapped, Posted, RemoteKey};
use crate::{Error, PeerId, RegionId};

/// Where pieces that follow one another lie, looked up once for all of them.
#[derive(Debug, Clone, Copy)]
struct Ends<'a> {
    local: RegionId,
    remote: RegionId,
    here: &'a Rc<Mapped>,
    key: &'a Rc<RemoteKey>,
}

impl<'a> Ends<'a> {
    fn find(
        mapped: &'a HashMap<RegionId, Rc<Mapped>>,
        keys: &'a HashMap<RegionId, Rc<RemoteKey>>,
        local: RegionId,
        remote: RegionId,
    ) -> Option<Self> {
        Some(Self { local, remote, here: mapped.get(&local)?, key: keys.get(&remote)? })
    }
}

impl Engine {
    /// A peer may have something to post.
    pub(super) fn activate(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.active && !peer.turns.is_empty() {
            peer.active = true;
            self.active.push_back(id);
        }
    }

    /// Gives some turns. Returns whether there was any.
    pub(super) fn pump(&mut self) -> bool {
        for turn in 0..TURNS_AT_ONCE {
            let Some(id) = self.active.pop_front() else { return turn > 0 };
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.active = false;
            }
            if self.turn(id) {
                self.activate(id);
            }
        }
        true
    }

    /// One turn of one transfer. Whether the peer has room for more.
    fn turn(&mut self, id: PeerId) -> bool {
        let Self { peers, transfers, worker, mapped, ended, .. } = self;
        let Some(peer) = peers.get_mut(&id).filter(|peer| peer.is_up()) else { return false };
        let pace = peer.pace;
        if peer.moving >= WINDOW_OPS || peer.moving_bytes >= pace.window {
            return false;
        }
        let Some(transfer_id) = peer.turns.pop_front() else { return false };
        let Some(transfer) = transfers.get_mut(&transfer_id) else { return true };
        let Some(endpoint) = &peer.endpoint else { return false };
        let (mut ops, mut bytes, mut ends) = (0, 0, None::<Ends<'_>>);
        while !transfer.all_posted
            && ops < TURN_OPS
            && bytes < pace.op
            && peer.moving < WINDOW_OPS
            && peer.moving_bytes < pace.window
        {
            let Some(piece) = transfer.cursor.next(&transfer.request.segments, pace.op) else {
                transfer.all_posted = true;
                break;
            };
            let (local, remote) = (piece.local, piece.remote);
            let same = ends.filter(|ends| (ends.local, ends.remote) == (local.region, remote.region));
            let find = || Ends::find(mapped, &peer.keys, local.region, remote.region);
            let Some(found) = same.or_else(find) else {
                let why = "it allows bytes of a region that it gives no key to";
                self.lose(id, &Error::Lost(why.into()));
                return false;
            };
            ends = Some(found);
            let op = Op::Data(id, transfer_id, piece.len);
            let (at, there, len) = (local.offset, remote.offset, piece.len);
            let Ends { here, key, .. } = found;
            let posted = match transfer.request.direction {
                Direction::Write => {
                    transfer.unflushed = true;
                    worker.put(endpoint, here, at, key, there, len, op)
                }
                Direction::Read => worker.get(endpoint, here, at, key, there, len, op),
            };
            (ops, bytes) = (ops + 1, bytes + len);
            match posted {
                Ok(Posted::Done) => {}
                other => {
                    peer.moving += 1;
                    peer.moving_bytes += len;
                    peer.under_way += 1;
                    transfer.moving += 1;
                    if let Err(status) = other {
                        ended.push((op, Err(status)));
                    }
                }
            }
        }
        if transfer.all_posted {
            self.settle(transfer_id);
        } else {
            peer.turns.push_back(transfer_id);
        }
        true
    }
}
