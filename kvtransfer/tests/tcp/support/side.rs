//! A fabric with one region, and what a test does with it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvferry_transfer::fabric::tcp::{TcpFabric, TcpOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{
    Access, AgentName, Epoch, Error, Lease, PeerId, Place, RegionId, Segment, Span, Token, TransferId,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub const TOKEN: Token = Token([7; 16]);

/// Longer than anything here takes on any machine: what is not there by then does not come.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Side {
    pub fabric: TcpFabric,
    pub memory: Region,
    pub region: RegionId,
    events: Vec<Event>,
}

pub fn place(offset: u64) -> Place {
    Place { region: RegionId(0), offset }
}

pub fn segment(local: u64, remote: u64, len: u64) -> Segment {
    Segment { local: place(local), remote: place(remote), len }
}

fn request(peer: PeerId, direction: Direction, segments: &[Segment]) -> Request {
    let segments: Arc<[Segment]> = segments.into();
    Request { peer, direction, token: TOKEN, segments, notify: None, deadline: None, checksum: false }
}

pub fn read(peer: PeerId, segments: &[Segment]) -> Request {
    request(peer, Direction::Read, segments)
}

pub fn write(peer: PeerId, segments: &[Segment]) -> Request {
    request(peer, Direction::Write, segments)
}

impl Side {
    pub fn options(name: &str) -> TcpOptions {
        TcpOptions::new(AgentName::new(name).unwrap(), Epoch(1), "127.0.0.1:0".parse().unwrap())
    }

    pub fn open(options: TcpOptions, len: u64) -> Self {
        let fabric = TcpFabric::open(options).unwrap();
        let len = NonZeroUsize::new(usize::try_from(len).unwrap()).unwrap();
        let memory = Arena::create("test", len).unwrap();
        let region = fabric.register(memory.clone()).unwrap();
        Self { fabric, memory, region, events: Vec::new() }
    }

    pub fn new(name: &str, len: u64) -> Self {
        Self::open(Self::options(name), len)
    }

    /// Two with as much memory; the first has connected to the second, which lets it do `access` anywhere.
    pub fn pair(len: u64, access: Access) -> (Self, Self, PeerId) {
        let (mut initiator, owner) = (Self::new("initiator", len), Self::new("owner", len));
        owner.grant(TOKEN, access, &[(0, len)]);
        let peer = initiator.meet(&owner);
        (initiator, owner, peer)
    }

    pub fn grant(&self, token: Token, access: Access, spans: &[(u64, u64)]) {
        self.grant_for(token, access, spans, PATIENCE).unwrap();
    }

    pub fn grant_for(
        &self,
        token: Token,
        access: Access,
        spans: &[(u64, u64)],
        time: Duration,
    ) -> Result<(), Error> {
        let spans = spans.iter().map(|(at, len)| Span::new(self.region, *at, *len)).collect();
        self.fabric.grant(Lease { token, access, spans, deadline: Instant::now() + time })
    }

    /// Connects and waits until it is.
    pub fn meet(&mut self, other: &Self) -> PeerId {
        let peer = self.fabric.connect(&other.fabric.metadata().unwrap()).unwrap();
        self.until(|event| matches!(event, Event::Connected(connected, _) if *connected == peer));
        peer
    }

    /// Waits for the next event that `wanted` wants, and returns all up to it.
    pub fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let at = self.wait(wanted);
        self.events.drain(..=at).collect()
    }

    fn wait(&mut self, wanted: impl Fn(&Event) -> bool) -> usize {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(&wanted) {
                return at;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not come; what came instead: {:?}", self.events);
            let timeout = PollTimeout::from(1000_u16);
            poll(&mut [PollFd::new(self.fabric.wake_fd(), PollFlags::POLLIN)], timeout).unwrap();
            self.fabric.poll(&mut self.events);
        }
    }

    /// How a transfer ends. Other events wait for who wants them.
    pub fn outcome(&mut self, transfer: TransferId) -> Result<(), Error> {
        let ended =
            |event: &Event| matches!(event, Event::Done(id) | Event::Failed(id, _) if *id == transfer);
        let at = self.wait(ended);
        match self.events.remove(at) {
            Event::Failed(_, error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Does it and waits for how it ends.
    pub fn run(&mut self, request: Request) -> Result<(), Error> {
        let transfer = self.fabric.submit(request)?;
        self.outcome(transfer)
    }

    /// The next message.
    pub fn message(&mut self) -> Bytes {
        match self.until(|event| matches!(event, Event::Notified(..))).pop() {
            Some(Event::Notified(_, message)) => message,
            other => panic!("{other:?}"),
        }
    }

    /// Why a peer is lost.
    pub fn lost(&mut self, peer: PeerId) -> Error {
        match self.until(|event| matches!(event, Event::Lost(lost, _) if *lost == peer)).pop() {
            Some(Event::Lost(_, error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Why a peer is lost that it goes to meet. A transfer with it fails for the same reason, if the peer is not lost already
    /// when it is begun.
    pub fn turned_away(&mut self, metadata: &[u8]) -> Error {
        let peer = self.fabric.connect(metadata).unwrap();
        let transfer = self.fabric.submit(read(peer, &[segment(0, 0, 8)]));
        let failed = match transfer {
            Ok(transfer) => self.outcome(transfer).unwrap_err(),
            Err(error) => {
                assert_eq!(error, Error::UnknownPeer(peer));
                return self.lost(peer);
            }
        };
        assert_eq!(self.lost(peer), failed);
        failed
    }

    pub fn freed(&mut self, token: Token) {
        self.until(|event| *event == Event::Freed(token));
    }

    /// What has happened that nobody waited for.
    pub fn others(&mut self) -> Vec<Event> {
        self.fabric.poll(&mut self.events);
        std::mem::take(&mut self.events)
    }

    /// Fills all memory with words that tell where they lie, and of what `seed`.
    pub fn fill(&self, seed: u64) {
        let words: Vec<u8> = (0..self.memory.len() / 8).flat_map(|at| word(at * 8, seed)).collect();
        assert!(self.memory.write_at(0, &words));
    }

    pub fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        assert!(self.memory.read_at(at, &mut bytes));
        bytes
    }
}

fn word(at: u64, seed: u64) -> [u8; 8] {
    (at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()
}
