//! Verification: checksums of a chunk's bytes by both sides, and only if they agree does it count. The peer is asked under
//! the same lease that the chunk was moved under, so that a checksum tells nobody anything about bytes that it may not reach.

use kvferry_transfer::fabric::Direction;
use kvferry_transfer::memory::Region;
use kvferry_transfer::{Access, Segment, Span, Token, Use};

use super::Mail;
use super::run::Shell;
use crate::Error;
use crate::books::lock;
use crate::core::{ChunkNo, PeerNo, Piece, TransferNo};
use crate::digest::sums;
use crate::events::Event;
use crate::limits::{MAX_CHECK_BYTES, MAX_CHECKS};
use crate::protocol::Frame;
use crate::roster::LinkNo;

/// Bytes whose checksums the agent's thread computes by itself: that takes less time than asking another thread to.
const SHORT: u64 = 128 << 10;

fn is_short(memory: &[(Region, Span)]) -> bool {
    memory.iter().map(|(_, span)| span.len).fold(0, u64::saturating_add) <= SHORT
}

/// A check under way.
#[derive(Debug)]
pub(super) struct Check {
    peer: PeerNo,
    /// The segment that each checksum is of.
    segments: Vec<usize>,
    here: Option<Vec<u32>>,
    there: Option<Vec<u32>>,
}

impl Shell {
    /// Checks a chunk that has arrived.
    pub(super) fn begin_check(&mut self, chunk: ChunkNo, transfer: TransferNo, piece: Piece) {
        let Some(of) = self.transfers.get(&transfer) else { return };
        let ranges: Vec<(usize, Segment)> = piece.ranges(&of.segments).collect();
        let memory = lock(&self.shared.regions).memory(ranges.iter().map(|(_, range)| range.here()));
        let memory = match memory {
            Ok(memory) => memory,
            Err(error) => return self.checked(chunk, Err(error)),
        };
        let access = match of.direction {
            Direction::Read => Access::Read,
            Direction::Write => Access::Write,
        };
        let spans = ranges.iter().map(|(_, range)| range.there()).collect();
        let (peer, token) = (of.peer.no, of.token);
        let segments = ranges.iter().map(|(index, _)| *index).collect();
        self.checks.insert(chunk, Check { peer, segments, here: None, there: None });
        self.say(peer, Frame::Check { number: chunk.0, token, access, spans }.encode());
        if is_short(&memory) {
            return self.summed(chunk, sums(&memory));
        }
        let mail = self.own.mail.clone();
        // Nobody reads it once the agent is closed.
        tokio::task::spawn_blocking(move || mail.blocking_send(Mail::Summed(chunk, sums(&memory))).ok());
    }

    /// This side's checksums are there.
    pub(super) fn summed(&mut self, chunk: ChunkNo, sums: Option<Vec<u32>>) {
        let Some(check) = self.checks.get_mut(&chunk) else { return };
        match sums {
            Some(sums) => {
                check.here = Some(sums);
                self.compare(chunk);
            }
            None => self.checked(chunk, Err(Error::Unchecked("this side's"))),
        }
    }

    /// The peer's are, or why not.
    pub(super) fn heard_sums(&mut self, peer: PeerNo, number: u64, sums: Result<Vec<u32>, (String, String)>) {
        let chunk = ChunkNo(number);
        let Some(check) = self.checks.get_mut(&chunk).filter(|check| check.peer == peer) else { return };
        match sums {
            Ok(sums) => {
                check.there = Some(sums);
                self.compare(chunk);
            }
            Err((code, words)) => {
                let error = if code == "full" {
                    Error::Full("checksums that a peer computes at a time (256)")
                } else {
                    Error::TurnedAway(code, words)
                };
                self.checked(chunk, Err(error));
            }
        }
    }

    fn compare(&mut self, chunk: ChunkNo) {
        let Some(Check { segments, here: Some(here), there: Some(there), .. }) = self.checks.get(&chunk)
        else {
            return;
        };
        let result = if here.len() == there.len() {
            let differs = here.iter().zip(there).position(|(here, there)| here != there);
            differs.map_or(Ok(()), |at| Err(Error::Corrupt(segments[at], 1)))
        } else {
            Err(Error::Malformed("checksums of other ranges than were asked for"))
        };
        self.checked(chunk, result);
    }

    fn checked(&mut self, chunk: ChunkNo, result: Result<(), Error>) {
        self.checks.remove(&chunk);
        let now = self.now();
        self.core.checked(now, chunk, result);
    }

    /// A peer wants checksums of bytes of this side.
    pub(super) fn heard_check(
        &mut self,
        peer: PeerNo,
        link: LinkNo,
        number: u64,
        token: Token,
        access: Access,
        spans: &[Span],
    ) {
        match self.serve_check(peer, token, access, spans) {
            Ok((using, memory)) if is_short(&memory) => self.summed_for(link, number, using, sums(&memory)),
            Ok((using, memory)) => {
                let mail = self.own.mail.clone();
                tokio::task::spawn_blocking(move || {
                    // Nobody reads it once the agent is closed.
                    mail.blocking_send(Mail::SummedFor(link, number, using, sums(&memory))).ok()
                });
            }
            Err(error) => {
                let (code, words) = (error.code().into(), error.to_string());
                self.say_on(link, Frame::Unchecked { number, code, words }.encode());
            }
        }
    }

    fn serve_check(
        &mut self,
        peer: PeerNo,
        token: Token,
        access: Access,
        spans: &[Span],
    ) -> Result<(Use, Vec<(Region, Span)>), Error> {
        let met = self.peers.get_mut(&peer).ok_or(Error::Closed)?;
        if met.checks >= MAX_CHECKS {
            return Err(Error::Full("checksums computed for one peer at a time (256)"));
        }
        if spans.iter().map(|span| span.len).fold(0, u64::saturating_add) > MAX_CHECK_BYTES {
            return Err(Error::Malformed("checksums of more than 64 MiB at a time"));
        }
        let regions = lock(&self.shared.regions);
        let using = lock(&self.shared.grants).begin(token, access, spans);
        let using = using.map_err(|refused| Error::from(kvferry_transfer::Error::Refused(refused)))?;
        // Within a lease there are only ranges that are registered, for as long as it is in use.
        match regions.memory(spans.iter().copied()) {
            Ok(memory) => {
                met.checks += 1;
                Ok((using, memory))
            }
            Err(error) => {
                lock(&self.shared.grants).done(using);
                Err(error)
            }
        }
    }

    /// They are computed.
    pub(super) fn summed_for(&mut self, link: LinkNo, number: u64, using: Use, sums: Option<Vec<u32>>) {
        let freed = lock(&self.shared.grants).done(using);
        if let Some(token) = freed {
            self.tell(Event::Freed(token));
        }
        if let Some(met) = self.roster.peer(link).and_then(|peer| self.peers.get_mut(&peer)) {
            met.checks = met.checks.saturating_sub(1);
        }
        let frame = if let Some(sums) = sums {
            Frame::Checked { number, sums }
        } else {
            let error = Error::Unchecked("the peer's");
            Frame::Unchecked { number, code: error.code().into(), words: error.to_string() }
        };
        self.say_on(link, frame.encode());
    }
}
