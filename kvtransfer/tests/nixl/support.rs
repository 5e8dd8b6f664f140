//! Two fabrics in one process, and the copies of NIXL to open them with.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvferry_ffi_testing::{each_in_its_own_process, files_of, python_folders};
use kvferry_nixl_sys::candidates_in;
use kvferry_transfer::fabric::nixl::{NixlFabric, NixlOptions};
use kvferry_transfer::fabric::{Direction, Event, Fabric, Request};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{
    Access, AgentName, Epoch, Lease, PeerId, Place, RegionId, Segment, Span, Token, TransferId,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub const BYTES: u64 = 1 << 20;
pub const TOKEN: Token = Token([7; 16]);

/// Runs `test`, which the harness lists as `name`, with each NIXL of this machine.
pub fn with_each(name: &str, test: impl FnOnce(&Path)) {
    each_in_its_own_process(name, &files_of(candidates_in(&python_folders())), test);
}

pub fn options(name: &str, library: impl Into<PathBuf>) -> NixlOptions {
    let listen = "127.0.0.1:0".parse().unwrap();
    let options = NixlOptions::new(AgentName::new(name).unwrap(), Epoch(5), listen);
    NixlOptions { library: Some(library.into()), ..options }
}

pub fn open(name: &str, library: &Path) -> NixlFabric {
    NixlFabric::open(options(name, library)).unwrap()
}

pub fn region(len: u64) -> Region {
    Arena::create("nixl", NonZeroUsize::new(usize::try_from(len).unwrap()).unwrap()).unwrap()
}

/// Bytes that differ from one place to the next.
pub fn pattern(len: u64, seed: u64) -> Vec<u8> {
    (0..len / 8).flat_map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes()).collect()
}

pub fn filled(len: u64, seed: u64) -> Region {
    let region = region(len);
    assert!(region.write_at(0, &pattern(len, seed)));
    region
}

pub fn bytes(region: &Region, offset: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    assert!(region.read_at(offset, &mut bytes));
    bytes
}

/// A lease of a whole region.
pub fn lease(region: RegionId, access: Access, len: u64) -> Lease {
    let deadline = Instant::now() + Duration::from_secs(600);
    Lease { token: TOKEN, access, spans: vec![Span::new(region, 0, len)], deadline }
}

pub fn segment(local: (RegionId, u64), remote: (RegionId, u64), len: u64) -> Segment {
    let place = |(region, offset)| Place { region, offset };
    Segment { local: place(local), remote: place(remote), len }
}

pub fn request(peer: PeerId, direction: Direction, segments: &[Segment]) -> Request {
    let segments = segments.into();
    Request { peer, direction, token: TOKEN, segments, notify: None, deadline: None, checksum: false }
}

/// Waits for an event that `wanted` makes something of.
pub fn until<T>(
    wake: BorrowedFd<'_>,
    take: impl Fn(&mut Vec<Event>) -> usize,
    mut wanted: impl FnMut(Event) -> Option<T>,
) -> T {
    let mut events = Vec::new();
    loop {
        take(&mut events);
        if let Some(found) = events.drain(..).find_map(&mut wanted) {
            return found;
        }
        // The suite's patience; a test that hangs says so.
        let woken = poll(&mut [PollFd::new(wake, PollFlags::POLLIN)], PollTimeout::from(60_000_u16));
        assert_eq!(woken, Ok(1), "the event does not come");
    }
}

/// The same, of a fabric.
pub fn seen<T>(fabric: &dyn Fabric, wanted: impl FnMut(Event) -> Option<T>) -> T {
    until(fabric.wake_fd(), |events| fabric.poll(events), wanted)
}

/// Waits for a transfer's end, which must be good.
pub fn done(fabric: &dyn Fabric, transfer: TransferId) {
    seen(fabric, |event| match event {
        Event::Done(id) if id == transfer => Some(()),
        Event::Failed(_, error) => panic!("{error}"),
        _ => None,
    });
}

/// `a` meets `b`: its number.
pub fn met(a: &NixlFabric, b: &NixlFabric) -> PeerId {
    let peer = a.connect(&b.metadata().unwrap()).unwrap();
    seen(a, |event| match event {
        Event::Connected(id, _) if id == peer => Some(()),
        Event::Lost(_, error) => panic!("{error}"),
        _ => None,
    });
    peer
}
