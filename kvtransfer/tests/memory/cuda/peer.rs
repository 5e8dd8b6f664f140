//! A second process with a shm fabric, and what both sides of a test need of theirs.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kvferry_transfer::fabric::shm::{Options, Shm};
use kvferry_transfer::fabric::{Event, Fabric};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, RegionId, Span, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Second, bytes, cuda, fill, memory, pattern};
use crate::process::{serve, to_hex};

const ROLE: &str = "cuda::peer::serves_its_regions_as_it_is_told";

/// For what never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The second side's lease to read its region of that number; the one to write is the next.
pub fn token(region: RegionId, access: Access) -> Token {
    Token([u8::try_from(region.0 * 2).unwrap() + u8::from(access == Access::Write); 16])
}

pub fn start(variables: &[(&str, &str)]) -> Second {
    Second::start(ROLE, variables)
}

pub fn fabric(name: &str) -> Shm {
    Shm::open(Options::new(AgentName::new(name).unwrap(), Epoch(1))).unwrap()
}

/// Memory of `len` bytes: `host`, or a device's number.
pub fn region(place: &str, len: usize) -> Region {
    match place {
        "host" => Arena::create("peer", NonZeroUsize::new(len).unwrap()).unwrap(),
        device => memory(&cuda(), device.parse().unwrap(), len),
    }
}

/// The first event that `found` finds something in.
pub fn until<T>(fabric: &Shm, mut found: impl FnMut(Event) -> Option<T>) -> T {
    let (start, mut events) = (Instant::now(), Vec::new());
    loop {
        fabric.poll(&mut events);
        if let Some(found) = events.drain(..).find_map(&mut found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it does not come");
        poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], PollTimeout::from(100u8)).unwrap();
    }
}

/// Goes to meet the one with that metadata.
pub fn meet(fabric: &Shm, metadata: &[u8]) -> PeerId {
    let peer = fabric.connect(metadata).unwrap();
    until(fabric, |event| match event {
        Event::Connected(id, _) if id == peer => Some(peer),
        Event::Lost(_, error) => panic!("{error}"),
        _ => None,
    })
}

fn grant(fabric: &Shm, region: RegionId, len: u64, access: Access) {
    let spans = vec![Span::new(region, 0, len)];
    let deadline = Instant::now() + 10 * PATIENCE;
    fabric.grant(Lease { token: token(region, access), access, spans, deadline }).unwrap();
}

/// Not for itself: it is what the other process runs.
#[test]
fn serves_its_regions_as_it_is_told() {
    serve(ROLE, || {
        // The fabric takes the driver that this process has loaded.
        cuda();
        let fabric = fabric("second");
        let mut regions: HashMap<u32, Region> = HashMap::new();
        Box::new(move |words| match words {
            ["open"] => to_hex(&fabric.metadata().unwrap()),
            ["register", place, len, seed] => {
                let region = region(place, len.parse().unwrap());
                fill(&region, &pattern(len.parse().unwrap(), seed.parse().unwrap()));
                let id = fabric.register(region.clone()).unwrap();
                grant(&fabric, id, region.len(), Access::Read);
                grant(&fabric, id, region.len(), Access::Write);
                regions.insert(id.0, region);
                id.0.to_string()
            }
            ["let", "go", number] => {
                let id = RegionId(number.parse().unwrap());
                for access in [Access::Read, Access::Write] {
                    fabric.revoke(token(id, access));
                    until(&fabric, |event| (event == Event::Freed(token(id, access))).then_some(()));
                }
                fabric.deregister(id).unwrap();
                regions.remove(&id.0);
                "gone".into()
            }
            ["is", number, seed] => {
                let bytes = bytes(&regions[&number.parse().unwrap()]);
                (bytes == pattern(bytes.len(), seed.parse().unwrap())).to_string()
            }
            other => panic!("{other:?}"),
        })
    });
}
