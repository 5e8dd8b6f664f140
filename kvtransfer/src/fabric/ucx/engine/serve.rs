//! What peers do under this side's leases. A request is checked range by range before anything moves; from then until the
//! peer says that it is over (or is gone), the lease is in use.

use std::collections::HashSet;
use std::time::Instant;

use bytes::Bytes;

use super::Engine;
use super::clock::Due;
use super::hash::Job;
use crate::fabric::common::{Ranges, Sums};
use crate::fabric::ucx::limits::{ASK_PART, MESSAGE_OVERHEAD, SUM_PART};
use crate::fabric::ucx::message::{Message, Reason, Violation};
use crate::fabric::{Direction, Limits};
use crate::lease::{Access, Refused, Use};
use crate::memory::Kind;
use crate::segment::Span;
use crate::{PeerId, RegionId, Token, TransferId};

/// A request that has not come wholly.
#[derive(Debug)]
pub(super) struct Collecting {
    id: u64,
    direction: Direction,
    token: Token,
    checksum: bool,
    count: usize,
    spans: Vec<Span>,
}

/// A request that was allowed.
#[derive(Debug)]
pub(super) struct Serving {
    token: Token,
    pub(super) using: Use,
    direction: Direction,
    told_to_stop: bool,
    /// Whether the peer touches the bytes no more.
    pub(super) over: bool,
    /// For checksums: the ranges, the writer's sums as far as they have come, and the message to deliver if they are right.
    checked: Option<Vec<Span>>,
    theirs: Vec<u32>,
    message: Option<Bytes>,
}

impl Engine {
    /// A peer asks. The first part of `count` ranges has come.
    #[expect(clippy::too_many_arguments, reason = "they are a message's fields")]
    pub(super) fn asked(
        &mut self,
        peer: PeerId,
        id: u64,
        direction: Direction,
        token: Token,
        checksum: bool,
        count: usize,
        part: Ranges<'_>,
    ) -> Result<(), Violation> {
        let spans = part.iter().collect();
        self.collect(peer, Collecting { id, direction, token, checksum, count, spans })
    }

    /// More of what a peer asks.
    pub(super) fn asked_more(&mut self, peer: PeerId, id: u64, part: Ranges<'_>) -> Result<(), Violation> {
        let Some(known) = self.peers.get_mut(&peer) else { return Ok(()) };
        let mut collecting = known.collecting.take_if(|collecting| collecting.id == id).ok_or(OUT_OF_TURN)?;
        collecting.spans.extend(part.iter());
        self.collect(peer, collecting)
    }

    /// The rest does not come.
    pub(super) fn asked_no_more(&mut self, peer: PeerId, id: u64) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.collecting.take_if(|collecting| collecting.id == id);
        }
    }

    fn collect(&mut self, id: PeerId, collecting: Collecting) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let have = collecting.spans.len();
        if have < collecting.count {
            if peer.collecting.is_some() || !have.is_multiple_of(ASK_PART) {
                return Err(OUT_OF_TURN);
            }
            peer.collecting = Some(collecting);
            return Ok(());
        }
        if have > collecting.count || peer.serving.contains_key(&collecting.id) {
            return Err(OUT_OF_TURN);
        }
        if peer.serving.len() >= Limits::MAX_TRANSFERS {
            return Err(Violation("more requests at a time than there may be"));
        }
        self.serve(id, collecting);
        Ok(())
    }

    fn serve(&mut self, id: PeerId, asked: Collecting) {
        let Collecting { id: number, direction, token, checksum, spans, .. } = asked;
        let access = match direction {
            Direction::Read => Access::Read,
            Direction::Write => Access::Write,
        };
        let begun =
            self.shared.ledger.pages().leases.begin(token, access, spans.iter().copied(), Instant::now());
        let using = match begun {
            Ok(using) => using,
            Err(refused) => return self.say(id, &Message::No(number, Reason::Refused(refused))),
        };
        if let Err(why) = self.open_regions(id, &spans, checksum) {
            self.shared.ledger.done_with(using);
            return self.say(id, &Message::No(number, Reason::Machine(why)));
        }
        let Some(peer) = self.peers.get_mut(&id) else { return self.shared.ledger.done_with(using) };
        let checked = checksum.then(|| spans.clone());
        let serving = Serving {
            token,
            using,
            direction,
            told_to_stop: false,
            over: false,
            checked,
            theirs: Vec::new(),
            message: None,
        };
        peer.serving.insert(number, serving);
        self.say(id, &Message::Go(number));
        if checksum && direction == Direction::Read {
            self.begin_hashing(Job::Theirs(id, number), spans);
        }
    }

    /// Gives a peer the keys to the regions of these ranges that it has not yet.
    fn open_regions(&mut self, id: PeerId, spans: &[Span], checksum: bool) -> Result<(), String> {
        let (mut seen, mut last) = (HashSet::new(), None);
        let mut new = |region: &RegionId| last.replace(*region) != Some(*region) && seen.insert(*region);
        let regions = spans.iter().filter(|span| span.len > 0).map(|span| span.at.region);
        let regions: Vec<RegionId> = regions.filter(|region| new(region)).collect();
        for region in regions {
            let Some(mapped) = self.mapped.get(&region) else { return Err(format!("{region} is gone")) };
            if checksum && mapped.region().kind() != Kind::Host {
                return Err(format!("no checksum of {} memory can be made", mapped.region().kind()));
            }
            let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
            if !peer.told.contains(&region) {
                let key = mapped.pack().map_err(|status| status.text(self.worker.ucx()))?;
                peer.told.insert(region);
                let (base, len) = (mapped.base(), mapped.region().len());
                self.say(id, &Message::Key { region, base, len, key: &key });
            }
        }
        Ok(())
    }

    /// A lease has ended: who moves bytes under it shall stop.
    pub(super) fn stop_serving(&mut self, token: Token, why: Refused) {
        let mut stop = Vec::new();
        for (id, peer) in &mut self.peers {
            for (number, serving) in &mut peer.serving {
                if serving.token == token && !serving.told_to_stop && !serving.over {
                    serving.told_to_stop = true;
                    stop.push((*id, *number));
                }
            }
        }
        for (id, number) in stop {
            self.say(id, &Message::Stop(number, Reason::Refused(why)));
            self.timers.add(Instant::now() + self.options.stop_within, Due::Unstopped(id, number));
        }
    }

    /// A peer touches bytes no more.
    pub(super) fn over(
        &mut self,
        id: PeerId,
        number: u64,
        done: bool,
        message: Option<&[u8]>,
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let parting = peer.is_parting();
        let Some(serving) = peer.serving.get_mut(&number) else {
            return Err(Violation("the end of what was not begun"));
        };
        if serving.over {
            return Err(Violation("the same end twice"));
        }
        let message = message.map(Bytes::copy_from_slice);
        if let Some(spans) =
            serving.checked.as_ref().filter(|_| done && !parting && serving.direction == Direction::Write)
        {
            if serving.theirs.len() != spans.len() {
                return Err(Violation("other checksums than there are ranges"));
            }
            (serving.over, serving.message) = (true, message);
            let spans = spans.clone();
            self.begin_hashing(Job::Theirs(id, number), spans);
            return Ok(());
        }
        self.done_serving(id, number, message.filter(|_| done && !parting));
        if parting {
            self.part_on(id);
        }
        Ok(())
    }

    fn done_serving(&mut self, id: PeerId, number: u64, message: Option<Bytes>) {
        let Some(serving) = self.peers.get_mut(&id).and_then(|peer| peer.serving.remove(&number)) else {
            return;
        };
        if let Some(message) = message {
            self.message_for_caller(id, message);
        }
        self.shared.ledger.done_with(serving.using);
    }

    /// Checksums of what a peer writes here.
    pub(super) fn sums(&mut self, id: PeerId, number: u64, part: Sums<'_>) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        if let Some(serving) =
            peer.serving.get_mut(&number).filter(|serving| serving.direction == Direction::Write)
        {
            serving.theirs.extend(part.iter());
            let most = serving.checked.as_ref().map_or(0, Vec::len);
            return if serving.theirs.len() <= most { Ok(()) } else { Err(TOO_MANY_SUMS) };
        }
        Err(TOO_MANY_SUMS)
    }

    /// Checksums of what a transfer of ours reads.
    pub(super) fn sums_of_mine(
        &mut self,
        id: PeerId,
        transfer: TransferId,
        part: Sums<'_>,
    ) -> Result<(), Violation> {
        // It may have been given up meanwhile.
        let Some(known) = self.transfers.get_mut(&transfer) else { return Ok(()) };
        if known.request.peer != id || known.request.direction != Direction::Read || !known.request.checksum {
            return Err(TOO_MANY_SUMS);
        }
        known.theirs.extend(part.iter());
        if known.theirs.len() > known.request.segments.len() {
            return Err(TOO_MANY_SUMS);
        }
        self.compare(transfer);
        Ok(())
    }

    /// This side's sums for a peer's request are known.
    pub(super) fn hashed_theirs(&mut self, id: PeerId, number: u64, sums: &[u32]) {
        let Some(serving) = self.peers.get_mut(&id).and_then(|peer| peer.serving.get_mut(&number)) else {
            return;
        };
        if serving.direction == Direction::Read {
            return self.say_sums(id, number, Direction::Read, sums);
        }
        let wrong = sums.iter().zip(&serving.theirs).position(|(ours, theirs)| ours != theirs);
        let wrong = wrong.map(|wrong| u32::try_from(wrong).unwrap_or(u32::MAX));
        let mut message = serving.message.take();
        if let Some(undelivered) = message.take_if(|_| wrong.is_some())
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.owed += undelivered.len() + MESSAGE_OVERHEAD;
        }
        self.say(id, &Message::Verdict { id: number, wrong });
        self.done_serving(id, number, message);
        self.part_on(id);
    }

    pub(super) fn say_sums(&mut self, id: PeerId, number: u64, direction: Direction, sums: &[u32]) {
        for part in sums.chunks(SUM_PART) {
            let encoded = Sums::encode(part);
            self.say(id, &Message::Sums { id: number, direction, part: Sums::of(&encoded) });
        }
    }
}

const OUT_OF_TURN: Violation = Violation("parts of a request out of turn");
const TOO_MANY_SUMS: Violation = Violation("checksums that belong to nothing");
