//! What a process of the suite has, and how it does what it is told.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Kind, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Error, Lease, PeerId, RegionId, Span, Token, TransferId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::backend::{self, Setup};
use crate::command::{Answer, Ask, Command, Footprint, Seen};
use crate::pattern::Pattern;

/// What the suite's arenas are called, so that their mappings can be found.
const ARENA: &str = "kv-conformance";

#[derive(Default)]
pub struct Node {
    fabric: Option<Box<dyn Fabric>>,
    regions: HashMap<RegionId, Region>,
    pattern: Pattern,
    /// What bytes were when a case last asked, and how often they have been others.
    last: HashMap<(u32, u64, u64), (Vec<u8>, u64)>,
}

impl Node {
    pub fn run(&mut self, command: Command) -> Answer {
        self.try_run(command).unwrap_or_else(|error| Answer::Error(error.code().into()))
    }

    fn try_run(&mut self, command: Command) -> Result<Answer, Error> {
        match command {
            Command::Open { backend, name, epoch, place } => {
                let backend =
                    backend::ALL.iter().find(|known| known.name == backend).expect("a backend of the suite");
                let name = AgentName::new(&name).expect("a name of the suite");
                let setup = Setup { name, epoch: Epoch(epoch), place };
                self.fabric = Some((backend.open)(setup)?);
                Ok(Answer::Bytes(self.fabric().metadata()?.to_vec()))
            }
            Command::Metadata => Ok(Answer::Bytes(self.fabric().metadata()?.to_vec())),
            Command::Region { len, arena } => {
                let region = if arena { new_arena(len)? } else { new_memory(len) };
                let id = self.fabric().register(region.clone())?;
                self.regions.insert(id, region);
                Ok(Answer::Number(id.0.into()))
            }
            Command::Deregister { region } => {
                self.fabric().deregister(RegionId(region))?;
                self.regions.remove(&RegionId(region));
                self.last.retain(|(of, ..), _| *of != region);
                Ok(Answer::Nothing)
            }
            Command::Fill { region, at, len, seed } => {
                self.pattern.fill(&self.regions[&RegionId(region)], at, len, seed);
                Ok(Answer::Nothing)
            }
            Command::Verify { region, at, from, len, seed } => {
                let region = &self.regions[&RegionId(region)];
                Ok(Answer::Maybe(self.pattern.first_wrong(region, at, from, len, seed)))
            }
            Command::VerifyBlocks { region, blocks, written, seed } => {
                let (region, pattern) = (&self.regions[&RegionId(region)], &mut self.pattern);
                let wrong = blocks.places().into_iter().rev().find_map(|(here, there)| {
                    let (at, from) = if written { (there, here) } else { (here, there) };
                    pattern.first_wrong(region, at, from, blocks.len, seed)
                });
                Ok(Answer::Maybe(wrong))
            }
            Command::Fingerprint { region, at, len } => {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                assert!(
                    self.regions[&RegionId(region)].read_at(at, &mut bytes),
                    "the case stays within its regions"
                );
                let (last, number) = self.last.entry((region, at, len)).or_default();
                if *last != bytes {
                    (*last, *number) = (bytes, *number + 1);
                }
                Ok(Answer::Number(*number))
            }
            Command::Footprint => Ok(Answer::Footprint(footprint())),
            command => self.use_fabric(command),
        }
    }

    fn use_fabric(&mut self, command: Command) -> Result<Answer, Error> {
        let fabric = self.fabric();
        match command {
            Command::Connect { metadata } => {
                return Ok(Answer::Number(fabric.connect(&metadata)?.0.into()));
            }
            Command::Disconnect { peer } => fabric.disconnect(PeerId(peer)),
            Command::Grant { token, write, spans, millis } => {
                let span = |(region, at, len)| Span::new(RegionId(region), at, len);
                fabric.grant(Lease {
                    token: Token([token; 16]),
                    access: if write { Access::Write } else { Access::Read },
                    spans: spans.into_iter().map(span).collect(),
                    deadline: Instant::now() + Duration::from_millis(millis),
                })?;
            }
            Command::Revoke { token } => fabric.revoke(Token([token; 16])),
            Command::Submit(ask) => return Ok(Answer::Number(fabric.submit(request(ask))?.0)),
            Command::Cancel { transfer } => fabric.cancel(TransferId(transfer)),
            Command::Notify { peer, message } => fabric.notify(PeerId(peer), message.into())?,
            Command::Poll { millis } => {
                wait(fabric, millis);
                let mut events = Vec::new();
                let count = fabric.poll(&mut events);
                assert_eq!(count, events.len(), "poll says how many events it gives");
                return Ok(Answer::Events(events.into_iter().map(seen).collect()));
            }
            Command::Readable => return Ok(Answer::Bool(wait(fabric, 0))),
            Command::Lane { peer } => {
                return Ok(Answer::Text(fabric.lane(PeerId(peer)).map(|lane| lane.transport)));
            }
            Command::Close => fabric.close(),
            other => unreachable!("{other:?} needs no fabric"),
        }
        Ok(Answer::Nothing)
    }

    fn fabric(&self) -> &dyn Fabric {
        self.fabric.as_deref().expect("the case opens the fabric first")
    }
}

fn new_arena(len: u64) -> Result<Region, Error> {
    Arena::create(ARENA, NonZeroUsize::new(usize::try_from(len).unwrap()).unwrap())
}

#[expect(unsafe_code, reason = "memory that is no arena")]
fn new_memory(len: u64) -> Region {
    let bytes: Arc<[u8]> = vec![0; usize::try_from(len).unwrap()].into();
    let base = NonNull::new(bytes.as_ptr().cast_mut()).unwrap();
    // SAFETY: the bytes live as long as their Arc, which the region keeps, and nobody looks at them through it.
    unsafe { Region::foreign(base, len, Kind::Host, Arc::new(bytes)) }
}

fn request(ask: Ask) -> Request {
    let segments =
        ask.blocks.iter().flat_map(|blocks| blocks.segments(RegionId(ask.local), RegionId(ask.remote)));
    Request {
        peer: PeerId(ask.peer),
        direction: if ask.write { Direction::Write } else { Direction::Read },
        token: Token([ask.token; 16]),
        segments: segments.collect(),
        notify: ask.notify.map(Bytes::from),
        deadline: ask.deadline.map(|millis| Instant::now() + Duration::from_millis(millis)),
        checksum: ask.checksum,
    }
}

fn wait(fabric: &dyn Fabric, millis: u64) -> bool {
    let timeout = PollTimeout::try_from(i32::try_from(millis).unwrap()).unwrap();
    poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], timeout).unwrap() == 1
}

fn seen(event: Event) -> Seen {
    match event {
        Event::Connected(peer, lane) => Seen::Connected(peer.0, lane.transport),
        Event::Done(transfer) => Seen::Done(transfer.0),
        Event::Failed(transfer, error) => Seen::Failed(transfer.0, error.code().into()),
        Event::Notified(peer, message) => Seen::Notified(peer.0, message.to_vec()),
        Event::Lost(peer, error) => Seen::Lost(peer.0, error.code().into()),
        Event::Freed(token) => Seen::Freed(token.0[0]),
    }
}

fn footprint() -> Footprint {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    Footprint {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        mappings: maps.lines().filter(|line| line.contains(ARENA)).count(),
    }
}
