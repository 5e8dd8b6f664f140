//! One end of a fabric, as a worker holds it: both ends have memory and lend it; the driving one meets the others and
//! submits.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_bench_common::Result;
use kvferry_transfer::fabric::{Direction, Event, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, Lease, PeerId, Place, RegionId, Segment, Span, Token, TransferId};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use serde_json::{Value, to_value};

use super::Holds;
use super::drive::Meter;
use crate::backends::{self, Libraries, Open};
use crate::fill;
use crate::pattern::Piece;
use crate::protocol::{Connected, Opened, Prepared, Ran, Setup, Shift, Verified};
use crate::work::{Op, Work};

/// How long a worker waits for anything to happen before it says that nothing does: longer than the fabrics' own limits.
const SILENCE: Duration = Duration::from_secs(60);

/// Leases last longer than any run; they end with the process.
const LEASE: Duration = Duration::from_secs(24 * 3600);

/// The largest block, and the most of them, that NIXL's fabric prepares ([`NixlFabric::blocks`]).
///
/// [`NixlFabric::blocks`]: kvferry_transfer::fabric::nixl::NixlFabric::blocks
const MAX_PREPARED: u64 = 4 << 20;
const MAX_BLOCKS: u64 = 1 << 20;

/// What the other end is told.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    metadata: Vec<u8>,
    region: u32,
    bytes: u64,
    read: [u8; 16],
    write: [u8; 16],
}

struct Peer {
    id: PeerId,
    offer: Offer,
}

pub(super) struct Held {
    open: Open,
    region: Region,
    id: RegionId,
    busy: bool,
    peers: Vec<Peer>,
    requests: Vec<Request>,
    /// Transfers in flight, with all peers.
    depth: usize,
    events: Vec<Event>,
}

impl Held {
    pub(super) fn open(setup: &Setup, libraries: &Libraries) -> Result<(Self, Opened)> {
        let bytes = usize::try_from(setup.bytes).ok().and_then(NonZeroUsize::new);
        let region =
            Arena::create("kvferry-bench", bytes.ok_or("memory of no bytes, or more than there can be")?)?;
        let begin = Instant::now();
        let open = backends::open(setup, libraries)?;
        let open_s = begin.elapsed().as_secs_f64();
        // Pages are there before they are registered, as an engine's are.
        if !fill::fill(&region, 0) {
            return Err("the memory cannot be written".into());
        }
        let begin = Instant::now();
        let id = open.fabric.register(region.clone())?;
        let opened =
            Opened { library: open.library.clone(), open_s, register_s: begin.elapsed().as_secs_f64() };
        let (peers, requests, events) = (Vec::new(), Vec::new(), Vec::new());
        Ok((Self { open, region, id, busy: setup.busy, peers, requests, depth: 1, events }, opened))
    }

    /// Waits until there are events, and takes them.
    fn wait(&mut self) -> Result<()> {
        let patience = Instant::now() + SILENCE;
        loop {
            if self.open.fabric.poll(&mut self.events) > 0 {
                return Ok(());
            }
            let left = patience.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("nothing has happened for {} s", SILENCE.as_secs()).into());
            }
            if !self.busy {
                let timeout = PollTimeout::try_from(left).expect("a minute is a time that poll takes");
                match poll(&mut [PollFd::new(self.open.fabric.wake_fd(), PollFlags::POLLIN)], timeout) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }

    fn meet(&mut self, offer: Offer) -> Result<String> {
        let id = self.open.fabric.connect(&offer.metadata)?;
        loop {
            self.wait()?;
            for event in self.events.drain(..) {
                match event {
                    Event::Connected(peer, lane) if peer == id => {
                        self.peers.push(Peer { id, offer });
                        return Ok(lane.to_string());
                    }
                    Event::Lost(peer, error) if peer == id => return Err(error.into()),
                    _ => {}
                }
            }
        }
    }
}

impl Holds for Held {
    fn fill(&mut self, seed: u64) -> Result<()> {
        if fill::fill(&self.region, seed) { Ok(()) } else { Err("the memory cannot be written".into()) }
    }

    fn offer(&mut self) -> Result<Value> {
        let token = || *uuid::Uuid::new_v4().as_bytes();
        let bytes = self.region.len();
        let (read, write) = (token(), token());
        for (token, access) in [(read, Access::Read), (write, Access::Write)] {
            let spans = vec![Span::new(self.id, 0, bytes)];
            let deadline = Instant::now() + LEASE;
            self.open.fabric.grant(Lease { token: Token(token), access, spans, deadline })?;
        }
        let metadata = self.open.fabric.metadata()?.to_vec();
        Ok(to_value(Offer { metadata, region: self.id.0, bytes, read, write })?)
    }

    fn connect(&mut self, offers: &[Value]) -> Result<Connected> {
        let offers = offers.iter().map(|offer| Ok(Offer::deserialize(offer)?)).collect::<Result<Vec<_>>>()?;
        let begin = Instant::now();
        let lanes = offers.into_iter().map(|offer| self.meet(offer)).collect::<Result<Vec<_>>>()?;
        Ok(Connected { lanes, seconds: begin.elapsed().as_secs_f64() })
    }

    fn prepare(&mut self, work: &Work, shift: Shift) -> Result<Prepared> {
        self.requests.clear();
        let pieces = work.pieces()?;
        let batch = work.batch_of(pieces.list.len());
        if let (Some(nixl), Some(len)) = (&self.open.nixl, pieces.even_len())
            && len <= MAX_PREPARED
            && self.region.len() / len <= MAX_BLOCKS
        {
            // Once for a region, before anything is measured, as the Python agent prepares its lists.
            nixl.blocks(self.id, len)?;
        }
        let mut prepared = Prepared { blocks: 0, bytes: 0, transfers: 0 };
        let (direction, token): (_, fn(&Offer) -> [u8; 16]) = match work.op {
            Op::Read => (Direction::Read, |offer| offer.read),
            Op::Write => (Direction::Write, |offer| offer.write),
        };
        let mut local_shift = shift.local;
        let mut by_peer = Vec::new();
        for Peer { id, offer } in &self.peers {
            if pieces.remote_extent.saturating_add(shift.remote) > offer.bytes {
                return Err("the work needs more memory than the peer has; open it with more".into());
            }
            let segment = |piece: &Piece| Segment {
                local: Place { region: self.id, offset: piece.local + local_shift },
                remote: Place { region: RegionId(offer.region), offset: piece.remote + shift.remote },
                len: piece.len,
            };
            let request = |part: &[Piece]| Request {
                peer: *id,
                direction,
                token: Token(token(offer)),
                segments: part.iter().map(segment).collect::<Arc<[_]>>(),
                notify: None,
                deadline: None,
                checksum: work.checksum,
            };
            by_peer.push(pieces.list.chunks(batch).map(request).collect::<Vec<_>>());
            local_shift += pieces.local_extent;
            prepared.blocks += pieces.list.len() as u64;
            prepared.bytes += pieces.bytes();
        }
        // By turns, so that all peers are busy from the first transfer to the last.
        let longest = by_peer.first().map_or(0, Vec::len);
        self.requests =
            (0..longest).flat_map(|at| by_peer.iter().map(move |requests| requests[at].clone())).collect();
        self.depth = work.depth * self.peers.len();
        prepared.transfers = self.requests.len() as u64;
        Ok(prepared)
    }

    fn run(&mut self, window: Duration) -> Result<Ran> {
        if self.requests.is_empty() {
            return Err("no work is prepared".into());
        }
        let size = |request: &Request| {
            let bytes: u64 = request.segments.iter().map(|segment| segment.len).sum();
            (bytes, request.segments.len() as u64)
        };
        let sizes: Vec<_> = self.requests.iter().map(size).collect();
        let mut under_way: HashMap<TransferId, (usize, Instant)> = HashMap::new();
        let mut next = 0_usize;
        let mut meter = Meter::begin()?;
        // Callers see only how long it takes to hand a transfer over; the fabric's thread then submits it.
        let submitting = |open: &Open| open.nixl.as_ref().map_or(Duration::ZERO, |nixl| nixl.submitting());
        let before = submitting(&self.open);
        loop {
            // A pass is always finished, so that every block has been moved as often as any other.
            while under_way.len() < self.depth
                && (!next.is_multiple_of(sizes.len()) || next == 0 || meter.lasts(window))
            {
                let at = next % sizes.len();
                let request = self.requests[at].clone();
                let begin = Instant::now();
                let id = self.open.fabric.submit(request)?;
                meter.submitted(begin.elapsed());
                under_way.insert(id, (at, begin));
                next += 1;
            }
            if under_way.is_empty() {
                meter.submitted(submitting(&self.open).saturating_sub(before));
                return meter.end();
            }
            self.wait()?;
            for event in self.events.drain(..) {
                match event {
                    Event::Done(id) => {
                        let (at, begin) =
                            under_way.remove(&id).ok_or("a transfer ended that was not begun")?;
                        meter.done(sizes[at].0, sizes[at].1, begin.elapsed());
                    }
                    Event::Failed(_, error) | Event::Lost(_, error) => return Err(error.into()),
                    _ => {}
                }
            }
        }
    }

    fn verify(&mut self, work: &Work, seed: u64, shift: Shift) -> Result<Verified> {
        let pieces = work.pieces()?;
        let mut bytes = 0;
        for piece in &pieces.list {
            let (local, remote) = (piece.local + shift.local, piece.remote + shift.remote);
            let (at, from) = if work.op == Op::Read { (local, remote) } else { (remote, local) };
            if let Some(wrong) = fill::first_wrong(&self.region, at, from, piece.len, seed) {
                return Ok(Verified { bytes, first_wrong: Some(wrong) });
            }
            bytes += piece.len;
        }
        Ok(Verified { bytes, first_wrong: None })
    }

    fn flip(&mut self, at: u64) -> Result<()> {
        let mut byte = [0];
        let flipped = self.region.read_at(at, &mut byte) && self.region.write_at(at, &[byte[0] ^ 1]);
        if flipped { Ok(()) } else { Err("no such byte".into()) }
    }
}
