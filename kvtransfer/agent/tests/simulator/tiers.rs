//! Which lane goes before which, by what really carries its bytes.

use std::sync::Arc;
use std::time::Duration;

use kvferry_agent::core::{ChunkNo, Command, Core, LaneNo, LaneSpec, Pace, PeerNo, Time, Work};
use kvferry_agent::{Error, Report};
use kvferry_transfer::fabric::{Copying, Direction};
use kvferry_transfer::{AgentName, Epoch, Place, RegionId, Segment};

use crate::way;

const UCX: u8 = 0;
const TCP: u8 = 1;

/// A library's lane and a socket's of our own, as carriers describe them.
struct Two {
    core: Core,
    peer: PeerNo,
    reached: Vec<u8>,
    moving: Vec<(ChunkNo, u8)>,
    reports: Vec<Report>,
    fell: Vec<String>,
}

impl Two {
    fn new() -> Self {
        let spec = |label: &str, tier, copied_tier| LaneSpec { label: Arc::from(label), tier, copied_tier };
        let mut core = Core::new(Pace::default());
        let lanes = vec![spec("ucx", 1, 3), spec("tcp", 2, 2)];
        let peer = core.met(Time::ZERO, AgentName::new("p").unwrap(), Epoch(1), lanes).unwrap();
        let mut two = Self { core, peer, reached: vec![], moving: vec![], reports: vec![], fell: vec![] };
        two.obey();
        two
    }

    fn obey(&mut self) {
        while let Some(command) = self.core.next_command() {
            match command {
                Command::Reach(lane) => self.reached.push(lane.index),
                Command::Move { chunk, lane, .. } => self.moving.push((chunk, lane.index)),
                Command::End(_, result) => self.reports.push(result.unwrap()),
                Command::FellBack { from, .. } => self.fell.push(from),
                other => panic!("{other:?}"),
            }
        }
    }

    fn up(&mut self, index: u8, copying: Copying) {
        self.core.lane_up(Time::ZERO, LaneNo { peer: self.peer, index }, way(copying));
        self.obey();
    }

    /// A transfer of one chunk: over which lane it begins, if it does.
    fn begin(&mut self) -> Option<u8> {
        let place = Place { region: RegionId(0), offset: 0 };
        let work = Work {
            segments: Arc::new([Segment { local: place, remote: place, len: 100 }]),
            direction: Direction::Read,
            deadline: Duration::from_secs(60),
            priority: 1,
            verify: false,
            notify: false,
            lanes: u32::MAX,
        };
        self.core.begin(Time::ZERO, self.peer, work).unwrap();
        self.obey();
        self.moving.last().map(|(_, lane)| *lane)
    }

    /// It arrives: its report.
    fn arrive(&mut self) -> Report {
        let (chunk, _) = self.moving.pop().unwrap();
        self.core.moved(Time::ZERO, chunk, Ok(()));
        self.obey();
        self.reports.pop().unwrap()
    }

    fn demoted(&self) -> Vec<bool> {
        self.core.views(Time::ZERO)[0].3.iter().map(|lane| lane.demoted).collect()
    }
}

#[test]
fn a_librarys_lane_that_does_what_it_promised_goes_before_sockets() {
    for copying in [Copying::ZeroCopy, Copying::Untold] {
        let mut two = Two::new();
        assert_eq!(two.reached, [UCX]);
        two.up(UCX, copying);
        assert_eq!(two.begin(), Some(UCX), "{copying:?}");
        assert!(!two.arrive().fell_back);
        assert_eq!((two.reached.len(), two.demoted()), (1, vec![false, false]), "tcp is not needed");
    }
}

#[test]
fn one_of_messages_or_sockets_goes_behind_our_own_and_that_is_told() {
    for copying in [Copying::Emulated, Copying::Socket] {
        let mut two = Two::new();
        two.up(UCX, copying);
        assert_eq!(two.reached, [UCX, TCP], "tcp is reached before it is needed");
        assert_eq!(two.begin(), None, "and waited for");
        two.up(TCP, Copying::Socket);
        assert_eq!(two.moving.last().map(|(_, lane)| *lane), Some(TCP), "{copying:?}");
        assert!(two.arrive().fell_back);
        assert!(two.fell[0].contains("ucx is up, but by tcp/lo"), "{:?}", two.fell);
        assert_eq!(two.demoted(), [true, false], "our own sockets are what they should be");
    }
}

#[test]
fn it_carries_what_nothing_else_can_and_counts_as_a_fallback_then() {
    let mut two = Two::new();
    two.up(UCX, Copying::Emulated);
    two.core.lane_down(
        Time::ZERO,
        LaneNo { peer: two.peer, index: TCP },
        &Error::from(kvferry_transfer::Error::Lost("refused".into())),
    );
    two.obey();
    assert_eq!(two.begin(), Some(UCX));
    assert!(two.arrive().fell_back);
    assert_eq!(two.core.views(Time::ZERO)[0].3[0].fallbacks, 1);
}

#[test]
fn a_lane_that_comes_back_as_another_one_is_judged_anew() {
    let mut two = Two::new();
    two.up(UCX, Copying::Emulated);
    two.up(TCP, Copying::Socket);
    let ucx = LaneNo { peer: two.peer, index: UCX };
    two.core.lane_down(Time::ZERO, ucx, &Error::from(kvferry_transfer::Error::Lost("reset".into())));
    two.core.tick(Duration::from_secs(1));
    two.obey();
    assert_eq!(two.reached, [UCX, TCP, UCX]);
    assert_eq!(two.begin(), Some(TCP), "nobody waits for what was slow before");
    two.arrive();
    two.up(UCX, Copying::ZeroCopy);
    assert_eq!(two.begin(), Some(UCX));
    assert!(!two.arrive().fell_back);
}

#[test]
fn a_transfer_of_nothing_waits_for_nobody() {
    let mut core = Core::new(Pace { lane_chunks: 1, ..Pace::default() });
    let lanes = vec![LaneSpec { label: "tcp".into(), tier: 2, copied_tier: 2 }];
    let peer = core.met(Time::ZERO, AgentName::new("p").unwrap(), Epoch(1), lanes).unwrap();
    core.lane_up(Time::ZERO, LaneNo { peer, index: 0 }, way(Copying::Socket));
    let place = Place { region: RegionId(0), offset: 0 };
    let work = |segments: Vec<Segment>| Work {
        segments: segments.into(),
        direction: Direction::Write,
        deadline: Duration::from_secs(60),
        priority: 1,
        verify: false,
        notify: true,
        lanes: u32::MAX,
    };
    core.begin(Time::ZERO, peer, work(vec![Segment { local: place, remote: place, len: 100 }])).unwrap();
    let nothing = core.begin(Time::ZERO, peer, work(vec![])).unwrap();
    let mut ended = Vec::new();
    while let Some(command) = core.next_command() {
        if let Command::End(no, result) = command {
            assert_eq!(result.unwrap().bytes, 0);
            ended.push(no);
        }
    }
    assert_eq!(ended, [nothing], "the lane is full, and it needs none");
}

#[test]
fn how_long_a_lane_was_busy_is_known_while_it_is() {
    let mut two = Two::new();
    two.up(UCX, Copying::ZeroCopy);
    two.begin();
    let busy = |two: &Two, seconds| two.core.views(Duration::from_secs(seconds))[0].3[0].busy;
    assert_eq!(busy(&two, 3), Duration::from_secs(3));
    two.core.moved(Duration::from_secs(5), two.moving[0].0, Ok(()));
    assert_eq!((busy(&two, 9), two.core.past().len()), (Duration::from_secs(5), 0));
    let peer = two.peer;
    two.core.lost(Duration::from_secs(9), peer, &Error::Cancelled);
    for index in [UCX, TCP] {
        two.core.lane_down(Duration::from_secs(9), LaneNo { peer, index }, &Error::Cancelled);
    }
    let past = two.core.past();
    assert!(two.core.views(Time::ZERO).is_empty());
    let shown: Vec<_> =
        past.iter().map(|lane| (&*lane.label, lane.bytes, lane.busy.as_secs(), lane.state)).collect();
    assert_eq!(shown, [("tcp", 0, 0, "gone"), ("ucx", 100, 5, "gone")], "what was carried is not forgotten");
}
