//! What the agent costs beside the fabric it uses: the same reads, over the fabric alone and through two agents, in one
//! process and one run. Medians; compare within a line only.
//!
//! `cargo run --release -p kvferry-agent --example agent_speed`
#![expect(clippy::unwrap_used, reason = "a figure that cannot be taken is no figure")]
#![expect(clippy::cast_precision_loss, reason = "figures to look at")]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvferry_agent::{Agent, Carrier, Options, TransferOptions};
use kvferry_transfer::fabric::shm::{self, Shm};
use kvferry_transfer::fabric::tcp::{TcpFabric, TcpOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const LEN: u64 = 128 << 20;
const ROUNDS: usize = 50;

fn open(shared: bool, name: &str) -> Arc<dyn Fabric> {
    let (name, epoch) = (AgentName::new(name).unwrap(), Epoch(1));
    if shared {
        Arc::new(Shm::open(shm::Options::new(name, epoch)).unwrap())
    } else {
        Arc::new(TcpFabric::open(TcpOptions::new(name, epoch, ([127, 0, 0, 1], 0).into())).unwrap())
    }
}

fn arena() -> Region {
    let region =
        Arena::create("agent-speed", NonZeroUsize::new(usize::try_from(LEN).unwrap()).unwrap()).unwrap();
    // So that its pages are there.
    (0..LEN / 4096).for_each(|page| assert!(region.write_at(page * 4096, &[1])));
    region
}

/// Blocks of `len` bytes, no two of which are neighbours on both sides.
fn blocks(local: RegionId, remote: RegionId, len: u64, count: u64) -> Arc<[Segment]> {
    let place = |region, index| Place { region, offset: index * len };
    (0..count)
        .map(|index| Segment { local: place(local, index), remote: place(remote, index ^ 1), len })
        .collect()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Reads these segments, and returns when they are there.
type Read = Box<dyn FnMut(Arc<[Segment]>)>;

/// Reads over the fabric alone, and the regions on both sides.
fn alone(shared: bool) -> (Read, RegionId, RegionId) {
    let (a, b) = (open(shared, "a"), open(shared, "b"));
    let (here, there) = (a.register(arena()).unwrap(), b.register(arena()).unwrap());
    let peer: PeerId = a.connect(&b.metadata().unwrap()).unwrap();
    while !matches!(next(&*a), Event::Connected(..)) {}
    let (token, deadline) = (Token([1; 16]), Instant::now() + Duration::from_secs(3600));
    let spans = vec![Span::new(there, 0, LEN)];
    b.grant(Lease { token, access: Access::Read, spans, deadline }).unwrap();
    let read = move |segments| {
        let _stays = &b;
        let direction = Direction::Read;
        let request =
            Request { peer, direction, token, segments, notify: None, deadline: None, checksum: false };
        a.submit(request).unwrap();
        assert!(matches!(next(&*a), Event::Done(_)));
    };
    (Box::new(read), here, there)
}

fn next(fabric: &dyn Fabric) -> Event {
    let mut events = Vec::new();
    while fabric.poll(&mut events) == 0 {
        poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
    }
    events.pop().unwrap()
}

/// The same through two agents.
fn agents(shared: bool, verify: bool) -> (Read, RegionId, RegionId) {
    let agent = |name| {
        let carriers = vec![Carrier::new(open(shared, name))];
        let mut options = Options::new(AgentName::new(name).unwrap(), Epoch(1), carriers);
        options.listen = Some(([127, 0, 0, 1], 0).into());
        Agent::open(options).unwrap()
    };
    let ((a, of_a), (b, of_b)) = (agent("a"), agent("b"));
    let (here, there) = (a.register(arena()).unwrap(), b.register(arena()).unwrap());
    let address = b.listening().unwrap().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let peer = runtime.block_on(a.connect(&address, None)).unwrap();
    let span = vec![Span::new(there, 0, LEN)];
    let token = b.grant(Access::Read, span, Instant::now() + Duration::from_secs(3600)).unwrap();
    let read = move |segments| {
        let _stay = (&b, &of_a, &of_b);
        let options = TransferOptions::within(Duration::from_secs(60));
        let options = if verify { options.verified() } else { options };
        a.read(&peer, token, segments, options).wait().unwrap();
    };
    (Box::new(read), here, there)
}

fn main() {
    for shared in [true, false] {
        let mut all = [alone(shared), agents(shared, false), agents(shared, true)];
        for (len, count) in [(64 << 10, 2048), (16 << 10, 2048), (16 << 10, 1)] {
            let mut times = [const { Vec::new() }; 3];
            // By turns, so that whatever else the machine does falls on all of them.
            for round in 0..=ROUNDS {
                for ((read, here, there), times) in all.iter_mut().zip(&mut times) {
                    let segments = blocks(*here, *there, len, count);
                    let start = Instant::now();
                    read(segments);
                    if round > 0 {
                        times.push(start.elapsed());
                    }
                }
            }
            let shown = times.map(median).map(|time| {
                let rate = (len * count) as f64 / time.as_secs_f64() / 1e9;
                if count > 1 { format!("{rate:.2} GB/s") } else { format!("{} us", time.as_micros()) }
            });
            let name = if shared { "shm" } else { "tcp" };
            let [fabric, agent, verified] = shown;
            println!(
                "{name}, {count} x {} KiB: fabric {fabric}, agent {agent}, verified {verified}",
                len >> 10
            );
        }
    }
}
