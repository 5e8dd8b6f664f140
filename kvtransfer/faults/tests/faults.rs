//! The decorator does what its plan says, and nothing else.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kvferry_faults::{Faulty, Plan};
use kvferry_transfer::fabric::shm::{Options, Shm};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{
    Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token, TransferId,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const LEN: usize = 1000;
const TOKEN: Token = Token([1; 16]);

struct Side {
    fabric: Faulty,
    memory: Region,
    region: RegionId,
    events: Vec<Event>,
}

fn side(name: &str) -> Side {
    let shm = Shm::open(Options::new(AgentName::new(name).unwrap(), Epoch(1))).unwrap();
    let fabric = Faulty::new(Box::new(shm), Plan::default()).unwrap();
    let memory = Arena::create("kv-faults-test", NonZeroUsize::new(LEN).unwrap()).unwrap();
    let region = fabric.register(memory.clone()).unwrap();
    Side { fabric, memory, region, events: Vec::new() }
}

impl Side {
    /// Waits for an event, for so long.
    fn next(&mut self, millis: u16) -> Option<Event> {
        if self.events.is_empty() {
            let mut fds = [PollFd::new(self.fabric.wake_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(millis)).unwrap();
            self.fabric.poll(&mut self.events);
            self.events.reverse();
        }
        self.events.pop()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        assert!(self.memory.read_at(0, &mut bytes));
        bytes
    }
}

/// Two sides that are connected; `b` lets `a` do anything.
fn pair(access: Access) -> (Side, Side, PeerId) {
    let (mut a, b) = (side("a"), side("b"));
    let peer = a.fabric.connect(&b.fabric.metadata().unwrap()).unwrap();
    assert!(matches!(a.next(60_000), Some(Event::Connected(..))));
    let spans = vec![Span::new(b.region, 0, LEN as u64)];
    let deadline = Instant::now() + Duration::from_secs(600);
    b.fabric.grant(Lease { token: TOKEN, access, spans, deadline }).unwrap();
    (a, b, peer)
}

fn begin(a: &Side, b: &Side, peer: PeerId, direction: Direction) -> Result<TransferId, &'static str> {
    let place = |region| Place { region, offset: 0 };
    let segment = Segment { local: place(a.region), remote: place(b.region), len: LEN as u64 };
    let segments = [segment].into();
    let request =
        Request { peer, direction, token: TOKEN, segments, notify: None, deadline: None, checksum: false };
    a.fabric.submit(request).map_err(|error| error.code())
}

fn differing(a: &Side, b: &Side) -> usize {
    a.bytes().iter().zip(b.bytes()).filter(|(a, b)| **a != *b).count()
}

#[test]
fn without_a_plan_nothing_goes_wrong() {
    let (mut a, b, peer) = pair(Access::Read);
    assert!(b.memory.write_at(0, &[7; LEN]));
    let id = begin(&a, &b, peer, Direction::Read).unwrap();
    assert_eq!(a.next(60_000), Some(Event::Done(id)));
    assert_eq!((differing(&a, &b), a.fabric.counts().total()), (0, 0));
}

#[test]
fn one_byte_is_changed_where_the_bytes_arrived_in_either_direction() {
    for (access, direction) in [(Access::Read, Direction::Read), (Access::Write, Direction::Write)] {
        let (mut a, b, peer) = pair(access);
        assert!(b.memory.write_at(0, &[7; LEN]));
        a.fabric.writes_to(b.fabric.memory());
        a.fabric.plan(Plan { corrupt: 1000, ..Plan::default() });
        let id = begin(&a, &b, peer, direction).unwrap();
        assert_eq!(a.next(60_000), Some(Event::Done(id)));
        assert_eq!((differing(&a, &b), a.fabric.counts().corrupted), (1, 1), "{direction:?}");
    }
}

#[test]
fn ends_are_lost_or_late_or_failures_and_submits_are_refused() {
    let (mut a, b, peer) = pair(Access::Read);
    let always = |change: fn(&mut Plan)| {
        let mut plan = Plan { delay_by: Duration::from_millis(50), ..Plan::default() };
        change(&mut plan);
        plan
    };
    a.fabric.plan(always(|plan| plan.fail_submit = 1000));
    assert_eq!(begin(&a, &b, peer, Direction::Read), Err("system"));
    a.fabric.plan(always(|plan| plan.fail_done = 1000));
    let id = begin(&a, &b, peer, Direction::Read).unwrap();
    assert!(matches!(a.next(60_000), Some(Event::Failed(failed, _)) if failed == id));
    a.fabric.plan(always(|plan| plan.delay = 1000));
    let (start, id) = (Instant::now(), begin(&a, &b, peer, Direction::Read).unwrap());
    assert_eq!(a.next(60_000), Some(Event::Done(id)));
    assert!(start.elapsed() >= Duration::from_millis(50), "it was held back");
    a.fabric.plan(always(|plan| plan.drop = 1000));
    begin(&a, &b, peer, Direction::Read).unwrap();
    assert_eq!(a.next(200), None);
    a.fabric.plan(Plan { at_most: 4, ..always(|plan| plan.drop = 1000) });
    let id = begin(&a, &b, peer, Direction::Read).unwrap();
    assert_eq!(a.next(60_000), Some(Event::Done(id)), "four faults there were");
}

#[test]
fn what_is_held_back_of_a_peer_comes_before_its_loss() {
    let (mut a, b, peer) = pair(Access::Read);
    let held = Plan { delay: 1000, delay_by: Duration::from_secs(600), lose_peer: 1000, ..Plan::default() };
    a.fabric.plan(held);
    let id = begin(&a, &b, peer, Direction::Read).unwrap();
    assert_eq!(a.next(60_000), Some(Event::Done(id)));
    assert!(matches!(a.next(60_000), Some(Event::Lost(lost, _)) if lost == peer));
    assert_eq!(a.fabric.counts().lost_peers, 1);
}
