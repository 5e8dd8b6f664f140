//! What the core runs in: fabrics and peers that do anything that they may, and some that they may not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kvferry_agent::Error;
use kvferry_agent::core::{ChunkNo, Command, Core, LaneNo, LaneSpec, Pace, PeerNo, Time, TransferNo, Work};
use kvferry_transfer::fabric::{Copying, Direction};
use kvferry_transfer::{AgentName, Epoch, Place, RegionId, Segment};

use crate::random::Random;
use crate::rules::{Chunk, Rules};
use crate::way;

/// How far the fabric is with a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Idle,
    Reaching,
    Up,
    /// Its chunks fail, and so does what is begun; it is about to say that it is lost.
    Losing,
    Leaving,
    /// It will never say that it was left.
    Broken,
}

/// What became of the transfers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub begun: u64,
    pub well: u64,
    pub cancelled: u64,
    pub stale: u64,
    pub corrupt: u64,
    pub late: u64,
    pub unsettled: u64,
    pub fell_back: u64,
    pub no_lane: u64,
    pub retried: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.well += other.well;
        self.cancelled += other.cancelled;
        self.stale += other.stale;
        self.corrupt += other.corrupt;
        self.late += other.late;
        self.unsettled += other.unsettled;
        self.fell_back += other.fell_back;
        self.no_lane += other.no_lane;
        self.retried += other.retried;
    }
}

pub struct World {
    random: Random,
    core: Core,
    pace: Pace,
    now: Time,
    rules: Rules,
    links: BTreeMap<LaneNo, Link>,
    peers: Vec<PeerNo>,
    epoch: u64,
    /// Percent of chunks that go wrong.
    trouble: u64,
    /// Percent of checks that find wrong bytes.
    rot: u64,
    /// Deadlines are so far away that none of them may be what ends a transfer.
    patient: bool,
    tally: Tally,
    /// A chunk that has arrived and may have to be checked.
    arriving: Option<Chunk>,
}

/// Longer than anything may take that ends by itself.
const AGES: Duration = Duration::from_secs(1_000_000);

fn fabric(error: kvferry_transfer::Error) -> Error {
    error.into()
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let pace = Pace {
            chunk_bytes: 100,
            chunk_segments: 4,
            lane_bytes: 300,
            lane_chunks: 5,
            chunks: 12,
            chunk_within: Duration::from_secs(3),
            stop_within: Duration::from_secs(1),
            reach_within: Duration::from_secs(2),
        };
        let trouble = [0, 10, 40][usize::try_from(random.below(3)).unwrap()];
        let rot = [trouble / 2, 90][usize::try_from(random.below(2)).unwrap()];
        let patient = random.chance(30);
        let mut world = Self {
            random,
            core: Core::new(pace),
            pace,
            now: Time::ZERO,
            rules: Rules::default(),
            links: BTreeMap::new(),
            peers: Vec::new(),
            epoch: 0,
            trouble,
            rot,
            patient,
            tally: Tally::default(),
            arriving: None,
        };
        world.meet();
        world
    }

    pub fn step(&mut self) {
        match self.random.below(100) {
            0..=19 => self.begin(),
            20..=21 => self.meet(),
            22 => self.lose_peer(),
            23..=25 => self.cancel(),
            26..=40 => self.lane(),
            41..=50 => self.pass_time(),
            _ => self.chunk(),
        }
        self.obey();
    }

    /// Lets everything come to its end, by itself.
    pub fn drain(mut self) -> Tally {
        let begun = self.now;
        (self.trouble, self.rot) = (0, 0);
        for _ in 0..100_000 {
            if self.core.outstanding() == (0, 0) {
                break;
            }
            if self.random.chance(50) {
                self.lane();
            } else {
                self.chunk();
            }
            if self.random.chance(20) {
                self.pass_time();
            }
            self.obey();
        }
        let (open, views) = (self.rules.open(), self.core.views(self.now));
        assert_eq!(
            self.core.outstanding(),
            (0, 0),
            "something never ends: {open:?} {views:#?} {:?} {:?}",
            self.core.due(),
            self.links
        );
        assert_eq!(self.rules.open(), vec![], "each transfer has ended");
        assert!(!self.patient || self.now < begun + AGES / 2, "only the deadline has ended something");
        // Peers that are parted from are gone once their lanes were left, or time has passed.
        for peer in self.peers.clone() {
            self.core.lost(self.now, peer, &Error::Closed);
        }
        for _ in 0..200 {
            self.obey();
            self.now += Duration::from_secs(1);
            self.core.tick(self.now);
        }
        self.obey();
        let views = self.core.views(self.now);
        assert!(views.is_empty(), "no peer is left: {views:?}");
        assert_eq!(self.core.due(), None, "nothing is due when there is nothing");
        self.tally
    }

    fn meet(&mut self) {
        self.epoch += 1;
        let name = AgentName::new(["a", "b", "c"][usize::try_from(self.random.below(3)).unwrap()]).unwrap();
        let count = 1 + self.random.below(4);
        let spec = |index: u64| LaneSpec {
            label: format!("lane{index}").into(),
            tier: u8::try_from(index / 2).unwrap(),
            copied_tier: u8::try_from(index / 2 + index % 2 * 3).unwrap(),
        };
        let lanes: Vec<LaneSpec> = (0..count).map(spec).collect();
        let no = self.core.met(self.now, name, Epoch(self.epoch), lanes).unwrap();
        for index in 0..count {
            self.links.insert(LaneNo { peer: no, index: u8::try_from(index).unwrap() }, Link::Idle);
        }
        self.peers.push(no);
    }

    fn lose_peer(&mut self) {
        if let Some(peer) = self.random.one(&self.peers) {
            self.core.lost(self.now, peer, &Error::PeerLost("simulated".into()));
        }
    }

    fn begin(&mut self) {
        let Some(peer) = self.random.one(&self.peers) else { return };
        let count = self.random.below(9);
        let place = |offset| Place { region: RegionId(0), offset };
        let one = |index: u64, len| Segment { local: place(index * 1000), remote: place(index * 1000), len };
        let segments: Arc<[Segment]> = (0..count).map(|index| one(index, self.random.below(250))).collect();
        let bytes = segments.iter().map(|segment| segment.len).sum();
        let work = Work {
            segments,
            direction: Direction::Read,
            deadline: self.now
                + if self.patient { AGES } else { Duration::from_millis(self.random.below(20_000)) },
            priority: 1 + u8::try_from(self.random.below(4)).unwrap(),
            verify: self.random.chance(40),
            notify: self.random.chance(40),
            lanes: u32::try_from(1 + self.random.below(15)).unwrap(),
        };
        let (notify, verify) = (work.notify, work.verify);
        // Its number is the next one; the rules must know it before the first chunk goes.
        match self.core.begin(self.now, peer, work) {
            Ok(no) => {
                self.rules.begun(no, peer, bytes, notify, verify);
                self.tally.begun += 1;
            }
            Err(error) => assert!(
                matches!(error, Error::UnknownPeer(_) | Error::NoLane(_) | Error::Deadline),
                "{error}"
            ),
        }
    }

    fn cancel(&mut self) {
        let open = self.rules.open();
        if let Some(no) = self.random.one(&open) {
            self.core.cancel(self.now, no);
        }
    }

    fn pass_time(&mut self) {
        let due = self.core.due().unwrap_or(self.now);
        self.now = if self.random.chance(50) && due < self.now + AGES / 2 {
            self.now.max(due)
        } else {
            self.now + Duration::from_millis(self.random.below(2_000))
        };
        self.core.tick(self.now);
    }

    fn lane(&mut self) {
        let lanes: Vec<(LaneNo, Link)> = self.links.iter().map(|(lane, link)| (*lane, *link)).collect();
        let Some((lane, link)) = self.random.one(&lanes) else { return };
        let lost = fabric(kvferry_transfer::Error::Lost("simulated".into()));
        match link {
            Link::Reaching if self.random.chance(self.trouble / 2) => match self.random.below(4) {
                0 => {
                    self.links.insert(lane, Link::Idle);
                    self.core.lane_absent(self.now, lane);
                }
                1 => {
                    let error = kvferry_transfer::Error::Lane("rdma".into(), "tcp".into());
                    self.lane_down(lane, &fabric(error));
                }
                _ => self.lane_down(lane, &lost),
            },
            Link::Reaching => {
                self.links.insert(lane, Link::Up);
                let copying = [Copying::ZeroCopy, Copying::Socket, Copying::Emulated];
                self.core.lane_up(self.now, lane, way(self.random.one(&copying).unwrap()));
            }
            Link::Up if self.random.chance(self.trouble / 4) => self.lane_down(lane, &lost),
            Link::Leaving if self.random.chance(self.trouble / 10) => {
                self.links.insert(lane, Link::Broken);
            }
            Link::Leaving => self.lane_down(lane, &Error::Cancelled),
            Link::Idle | Link::Broken | Link::Losing | Link::Up => {}
        }
    }

    /// The lane is lost: everything that moved over it has failed before, unless its event is dropped.
    fn lane_down(&mut self, lane: LaneNo, why: &Error) {
        self.links.insert(lane, Link::Losing);
        let of_lane = |chunk: &&Chunk| chunk.lane == lane && !chunk.checking;
        while let Some((no, chunk)) = self.rules.chunks.iter().find(|(_, chunk)| of_lane(chunk)) {
            let (no, chunk) = (*no, chunk.clone());
            self.rules.chunks.remove(&no);
            if !chunk.dropped {
                self.core.moved(self.now, no, Err(why.clone()));
                self.obey();
            }
        }
        self.links.insert(lane, Link::Idle);
        self.core.lane_down(self.now, lane, why);
    }

    fn chunk(&mut self) {
        let all: Vec<ChunkNo> = self.rules.chunks.keys().copied().collect();
        let Some(no) = self.random.one(&all) else { return };
        let chunk = self.rules.chunks[&no].clone();
        if chunk.dropped || self.links[&chunk.lane] == Link::Broken && !chunk.checking {
            return;
        }
        let bad = self.random.chance(self.trouble);
        if chunk.checking {
            self.rules.chunks.remove(&no);
            let rotten = self.random.chance(self.rot);
            let result = match self.random.below(if rotten { 20 } else { 2 }) {
                0 if bad => Err(Error::Full("simulated")),
                0 | 1 => Ok(()),
                2 => Err(fabric(kvferry_transfer::Error::Refused(kvferry_transfer::Refused::NoLease))),
                _ => Err(Error::Corrupt(chunk.piece.first, 0)),
            };
            match (self.core.checked(self.now, no, result.clone()), result) {
                (true, Ok(())) => self.rules.arrived(&chunk),
                (true, Err(error)) if error.code() == "full" => self.rules.was_full(&chunk),
                _ => {}
            }
            return;
        }
        if bad && self.random.chance(10) {
            self.rules.chunks.get_mut(&no).unwrap().dropped = true;
            return;
        }
        let result = match self.random.below(if bad { 5 } else { 1 }) {
            0 if chunk.stopped && self.random.chance(60) => Err(fabric(kvferry_transfer::Error::Cancelled)),
            0 => Ok(()),
            1 => Err(fabric(kvferry_transfer::Error::Lost("simulated".into()))),
            2 => Err(fabric(kvferry_transfer::Error::Full("simulated"))),
            3 => Err(fabric(kvferry_transfer::Error::System("simulated", 5))),
            _ => Err(fabric(kvferry_transfer::Error::Refused(kvferry_transfer::Refused::Outside))),
        };
        let verify = self.rules.transfers[&chunk.transfer].verify && chunk.piece.bytes > 0;
        match &result {
            Ok(()) if !verify => {
                self.rules.chunks.remove(&no);
            }
            // Whether it is checked is for the core to say: `Command::Check`, or it is forgotten.
            Ok(()) => self.arriving = self.rules.chunks.remove(&no),
            Err(error) => {
                self.rules.chunks.remove(&no);
                if error.code() == "full" && !chunk.stopped {
                    self.rules.was_full(&chunk);
                }
            }
        }
        if self.core.moved(self.now, no, result.clone()) && result.is_ok() && !verify {
            self.rules.arrived(&chunk);
        }
        if self.random.chance(5) {
            assert!(!self.core.moved(self.now, no, result), "what is said twice counts once");
        }
    }

    fn obey(&mut self) {
        while let Some(command) = self.core.next_command() {
            match command {
                Command::Reach(lane) => {
                    let before = self.links.insert(lane, Link::Reaching);
                    assert!(matches!(before, Some(Link::Idle | Link::Broken)), "{lane:?} was {before:?}");
                }
                Command::Leave(lane) => {
                    let before = self.links.insert(lane, Link::Leaving);
                    let chunks = self.rules.chunks.values_mut().filter(|chunk| chunk.lane == lane);
                    chunks.for_each(|chunk| chunk.left = true);
                    assert!(
                        matches!(before, Some(Link::Reaching | Link::Up | Link::Losing)),
                        "{lane:?} was {before:?}"
                    );
                }
                Command::Move { chunk, lane, transfer, piece } => {
                    assert!(
                        matches!(self.links[&lane], Link::Up | Link::Losing),
                        "chunks go over lanes that are up"
                    );
                    self.rules.moves(chunk, lane, transfer, piece, &self.pace);
                }
                Command::Stop(chunk) => {
                    if let Some(chunk) = self.rules.chunks.get_mut(&chunk) {
                        assert!(!chunk.stopped, "a chunk is stopped once");
                        chunk.stopped = true;
                    }
                }
                Command::Check { chunk, transfer, .. } => {
                    assert!(self.rules.transfers[&transfer].verify);
                    let of = self.arriving.take().expect("what is checked has just arrived");
                    self.rules.chunks.insert(chunk, Chunk { checking: true, ..of });
                }
                Command::Forget(chunk) => self.rules.forgotten(chunk),
                Command::Tell(transfer) => self.rules.told(transfer),
                Command::End(transfer, result) => self.end(transfer, &result),
                Command::FellBack { .. } => self.tally.fell_back += 1,
                Command::Gone(peer, _) => {
                    self.rules.gone(peer);
                    self.peers.retain(|known| *known != peer);
                    self.links.retain(|lane, _| lane.peer != peer);
                }
            }
        }
    }

    fn end(&mut self, no: TransferNo, result: &Result<kvferry_agent::Report, Box<kvferry_agent::Failure>>) {
        self.rules.ends(no, result);
        // Nobody waits for chunks that a broken fabric keeps.
        self.rules.chunks.retain(|_, chunk| chunk.transfer != no);
        let tally = &mut self.tally;
        let report = match result {
            Ok(report) => {
                tally.well += 1;
                report
            }
            Err(failure) => {
                match failure.error {
                    Error::Cancelled => tally.cancelled += 1,
                    Error::StaleEpoch(..) => tally.stale += 1,
                    Error::Corrupt(..) => tally.corrupt += 1,
                    Error::Deadline => tally.late += 1,
                    Error::NoLane(_) => tally.no_lane += 1,
                    _ => {}
                }
                &failure.report
            }
        };
        tally.unsettled += u64::from(!report.settled);
        tally.retried += u64::from(report.retried > 0);
    }
}
