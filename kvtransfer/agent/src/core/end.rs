//! How transfers end: once, and when nothing of them is under way.

use super::command::Command;
use super::flight::Stage;
use super::timers::Due;
use super::{ChunkNo, Core, Time, TransferNo};
use crate::{Error, Failure};

impl Core {
    /// Ends a transfer that has not arrived wholly, once what is under way of it has ended.
    pub(super) fn finish(&mut self, now: Time, no: TransferNo, error: Error) {
        let Some(of) = self.transfers.get_mut(&no).filter(|of| of.ending.is_none()) else { return };
        of.ending = Some(error);
        of.again.clear();
        if std::mem::take(&mut of.in_ring)
            && let Some(peer) = self.peers.get_mut(&of.peer)
        {
            peer.ring.remove(no);
        }
        let (peer, mut room) = (of.peer, false);
        let chunks: Vec<ChunkNo> = of.flights.iter().copied().collect();
        for chunk in chunks {
            match self.flights.get(&chunk).map(|flight| flight.stage) {
                Some(Stage::Moving) => self.stop(now, chunk),
                // Its bytes are in place; nobody writes any more.
                Some(Stage::Checking) => {
                    self.out.push_back(Command::Forget(chunk));
                    room |= self.land(now, chunk).is_some();
                }
                None => {}
            }
        }
        if room {
            // Not from here: this is called from where that is done.
            self.timers.by(now, Due::Again(peer));
            self.timers.by(now, Due::Room);
        }
        self.complete_if_over(now, no);
    }

    /// Says how a transfer has ended, if it has.
    pub(super) fn complete_if_over(&mut self, now: Time, no: TransferNo) {
        let over = self
            .transfers
            .get(&no)
            .is_some_and(|of| of.flights.is_empty() && (of.ending.is_some() || of.is_begun()));
        if !over {
            return;
        }
        let Some(mut of) = self.transfers.remove(&no) else { return };
        self.timers.clear(Due::Deadline(no));
        self.segments -= of.work.segments.len();
        of.report.took = now.saturating_sub(of.begun);
        if let Some(peer) = self.peers.get_mut(&of.peer) {
            peer.transfers.remove(&no);
            if of.in_ring {
                peer.ring.remove(no);
            }
        }
        let result = match of.ending {
            None => {
                if of.work.notify {
                    self.out.push_back(Command::Tell(no));
                }
                Ok(of.report)
            }
            Some(error) => {
                of.report.verified = false;
                Err(Box::new(Failure { error, report: of.report }))
            }
        };
        self.out.push_back(Command::End(no, result));
        self.forget_if_over(of.peer);
    }
}
