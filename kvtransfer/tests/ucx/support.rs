//! Two fabrics in one process, and the copies of UCX to open them with.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvferry_ffi_testing::{
    Copy, distribution_libraries, each_in_its_own_process, files_of, python_folders, skipped,
};
use kvferry_transfer::fabric::ucx::{UcxFabric, UcxOptions};
use kvferry_transfer::fabric::{Event, Fabric};
use kvferry_transfer::memory::{Arena, Region};
use kvferry_transfer::{Access, AgentName, Epoch, Lease, PeerId, RegionId, Span, Token};
use kvferry_ucx_sys::candidates_in;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What the loader knows UCX as.
const NAME: &str = "libucp.so.0";

pub const BYTES: u64 = 1 << 20;
pub const TOKEN: Token = Token([7; 16]);

/// Runs `test`, which the harness lists as `name`, with each UCX of this machine.
pub fn with_each(name: &str, test: impl FnOnce(Option<PathBuf>)) {
    let mut copies = files_of(candidates_in(&python_folders()));
    match distribution_libraries().into_iter().find(|folder| folder.join(NAME).exists()) {
        Some(folder) => copies.push(Copy::in_folder(NAME, folder)),
        None => skipped("the distribution's UCX is not unpacked (run `make setup`)"),
    }
    each_in_its_own_process(name, &copies, |file| {
        test((file != Path::new(NAME)).then(|| file.to_path_buf()));
    });
}

pub fn options(name: &str, library: Option<PathBuf>) -> UcxOptions {
    UcxOptions { library, ..UcxOptions::new(AgentName::new(name).unwrap(), Epoch(5)) }
}

pub fn region() -> Region {
    Arena::create("ucx", NonZeroUsize::new(usize::try_from(BYTES).unwrap()).unwrap()).unwrap()
}

/// A lease of a whole region.
pub fn lease(region: RegionId, access: Access) -> Lease {
    let deadline = Instant::now() + Duration::from_secs(600);
    Lease { token: TOKEN, access, spans: vec![Span::new(region, 0, BYTES)], deadline }
}

/// Waits for an event that `wanted` makes something of.
pub fn until<T>(fabric: &UcxFabric, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
    let mut events = Vec::new();
    loop {
        fabric.poll(&mut events);
        if let Some(found) = events.drain(..).find_map(&mut wanted) {
            return found;
        }
        // The suite's patience; a test that hangs says so.
        let woken =
            poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], PollTimeout::from(60_000_u16));
        assert_eq!(woken, Ok(1), "the event does not come");
    }
}

/// `a` meets `b`: its number.
pub fn met(a: &UcxFabric, b: &UcxFabric) -> PeerId {
    let peer = a.connect(&b.metadata().unwrap()).unwrap();
    until(a, |event| match event {
        Event::Connected(id, _) if id == peer => Some(()),
        Event::Lost(_, error) => panic!("{error}"),
        _ => None,
    });
    peer
}
