//! Agents with real fabrics, and what is usual with them.

use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_agent::{Agent, Carrier, Event, Events, Options, Peer, Report, Transfer, TransferOptions};
use kvferry_faults::{Faulty, Plan};
use kvferry_transfer::fabric::Fabric;
use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::shm::{self, Shm};
use kvferry_transfer::fabric::tcp::{TcpFabric, TcpOptions};
use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions, Want};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Place, RegionId, Segment, Span, Token};

/// How long something may take to come: for what never comes, on whatever machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const MIB: u64 = 1 << 20;

/// Which fabric.
#[derive(Debug, Clone, Copy)]
pub enum Of<'a> {
    Shm,
    Tcp,
    /// A rail.
    TcpAt([u8; 4]),
    Ucx {
        library: &'a Path,
        transports: Option<&'a str>,
        want: Want,
    },
    Nixl {
        library: &'a Path,
    },
}

impl Of<'_> {
    pub fn open(self, name: &str, epoch: u64) -> Box<dyn Fabric> {
        let (name, epoch) = (AgentName::new(name).unwrap(), Epoch(epoch));
        let tcp = |ip: IpAddr| -> Box<dyn Fabric> {
            Box::new(TcpFabric::open(TcpOptions::new(name.clone(), epoch, (ip, 0).into())).unwrap())
        };
        match self {
            Self::Shm => Box::new(Shm::open(shm::Options::new(name, epoch)).unwrap()),
            Self::Tcp => tcp([127, 0, 0, 1].into()),
            Self::TcpAt(ip) => tcp(ip.into()),
            Self::Ucx { library, transports, want } => {
                let mut options = UcxOptions::new(name, epoch);
                (options.library, options.want) = (Some(library.into()), want);
                options.transports = transports.map(Into::into);
                Box::new(UcxFabric::open(options).unwrap())
            }
            Self::Nixl { library } => {
                let mut options = NixlOptions::new(name, epoch, ([127, 0, 0, 1], 0).into());
                options.library = Some(library.into());
                Box::new(NixlFabric::open(options).unwrap())
            }
        }
    }
}

pub struct Side {
    pub agent: Agent,
    pub events: Events,
    pub fabrics: Vec<Arc<Faulty>>,
    pub memory: Region,
    pub region: RegionId,
}

pub fn options(name: &str, epoch: u64, carriers: Vec<Carrier>) -> Options {
    let mut options = Options::new(AgentName::new(name).unwrap(), Epoch(epoch), carriers);
    options.listen = Some("127.0.0.1:0".parse().unwrap());
    options
}

impl Side {
    /// An agent over these fabrics, with a region of so many bytes.
    pub fn new(name: &str, fabrics: &[Of<'_>], len: u64) -> Self {
        Self::with(name, 1, fabrics, len, |options| options)
    }

    pub fn with(
        name: &str,
        epoch: u64,
        fabrics: &[Of<'_>],
        len: u64,
        change: impl FnOnce(Options) -> Options,
    ) -> Self {
        let open = |of: &Of<'_>| Arc::new(Faulty::new(of.open(name, epoch), Plan::default()).unwrap());
        let fabrics: Vec<Arc<Faulty>> = fabrics.iter().map(open).collect();
        let carriers =
            fabrics.iter().map(|fabric| Carrier::new(Arc::clone(fabric) as Arc<dyn Fabric>)).collect();
        let (agent, events) = Agent::open(change(options(name, epoch, carriers))).unwrap();
        let len = NonZeroUsize::new(usize::try_from(len).unwrap()).unwrap();
        let memory = Arena::create("kv-agent-test", len).unwrap();
        let region = agent.register(memory.clone()).unwrap();
        Self { agent, events, fabrics, memory, region }
    }

    pub fn address(&self) -> String {
        self.agent.listening().unwrap().to_string()
    }

    pub fn meet(&self, other: &Self) -> Peer {
        wait(self.agent.connect(&other.address(), None)).unwrap()
    }

    pub fn grant(&self, access: Access) -> Token {
        let span = Span::new(self.region, 0, self.memory.len());
        self.agent.grant(access, vec![span], Instant::now() + Duration::from_secs(600)).unwrap()
    }

    /// Fills its region with what depends on the place and on `seed`.
    pub fn fill(&self, seed: u8) {
        assert!(self.memory.write_at(0, &pattern(self.memory.len(), seed)));
    }

    pub fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(len).unwrap()];
        assert!(self.memory.read_at(at, &mut bytes));
        bytes
    }

    /// Waits for an event that `wanted` finds something in.
    pub fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let events = &mut self.events;
        wait(async move {
            loop {
                let event = events.next().await.expect("the agent is open");
                if let Some(found) = wanted(event) {
                    return found;
                }
            }
        })
    }

    pub fn notified(&mut self) -> Vec<u8> {
        self.until(|event| match event {
            Event::Notified(_, message) => Some(message.to_vec()),
            _ => None,
        })
    }

    pub fn lost(&mut self) -> String {
        self.until(|event| match event {
            Event::Lost(_, error) => Some(error.code().into()),
            _ => None,
        })
    }
}

pub fn pattern(len: u64, seed: u8) -> Vec<u8> {
    let byte = |at: u64| at.to_le_bytes()[..3].iter().fold(seed, |all, byte| all ^ byte);
    (0..len).map(byte).collect()
}

/// Waits for a future; one that never comes stops the test.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it comes at some time") })
}

/// The transfer's end: its report, or the code of its error.
pub fn end(transfer: Transfer) -> Result<Report, String> {
    wait(transfer).map_err(|failure| {
        assert!(failure.report.settled, "{failure}");
        failure.error.code().into()
    })
}

pub fn soon() -> TransferOptions {
    TransferOptions::within(PATIENCE)
}

/// All of two regions, in so many segments.
pub fn segments(local: RegionId, remote: RegionId, len: u64, count: u64) -> Vec<Segment> {
    let step = len / count;
    let place = |region, index| Place { region, offset: index * step };
    let one = |index| Segment { local: place(local, index), remote: place(remote, index), len: step };
    (0..count).map(one).collect()
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what} never comes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Two agents over these fabrics, met, and what `a` calls `b`.
pub fn pair(fabrics: &[Of<'_>], len: u64) -> (Side, Side, Peer) {
    let (a, b) = (Side::new("a", fabrics, len), Side::new("b", fabrics, len));
    let peer = a.meet(&b);
    (a, b, peer)
}
