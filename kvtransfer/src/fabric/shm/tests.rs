//! The fabric and a peer that does not keep to the rules: speaks garbage, lies, or says nothing. The peer here is the test
//! itself, with a plain socket.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::frame::{self, Frame, Put, Reason, Turned};
use super::metadata::Metadata;
use super::socket::{self, Address};
use super::*;
use crate::fabric::{Direction, Limits};
use crate::memory::cuda::Export;
use crate::memory::{Arena, Device, Kind};
use crate::{Access, AgentName, Epoch, Place, Segment, Span};

/// For what never comes.
const PATIENCE: Duration = Duration::from_secs(60);

const TOKEN: Token = Token([1; 16]);

fn identity(name: &str, epoch: u64) -> Identity {
    Identity { name: AgentName::new(name).unwrap(), epoch: Epoch(epoch) }
}

/// A fabric that soon loses its patience, with a region.
fn fabric() -> (Shm, Region) {
    let mut options = Options::new(AgentName::new("fabric").unwrap(), Epoch(1));
    (options.meet_within, options.stop_within) = (Duration::from_millis(200), Duration::from_millis(200));
    let fabric = Shm::open(options).unwrap();
    let region = arena();
    fabric.register(region.clone()).unwrap();
    (fabric, region)
}

fn arena() -> Region {
    Arena::create("test", NonZeroUsize::new(1 << 20).unwrap()).unwrap()
}

fn until<T>(fabric: &Shm, mut found: impl FnMut(Event) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let mut events = Vec::new();
        fabric.poll(&mut events);
        if let Some(found) = events.into_iter().find_map(&mut found) {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it does not come");
        let timeout = PollTimeout::from(100u8);
        poll(&mut [PollFd::new(fabric.wake_fd(), PollFlags::POLLIN)], timeout).unwrap();
    }
}

fn lost(fabric: &Shm) -> Error {
    until(fabric, |event| match event {
        Event::Lost(_, error) => Some(error),
        _ => None,
    })
}

/// The other end.
struct Raw {
    socket: OwnedFd,
    heard: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

impl Raw {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, heard: Vec::new(), files: VecDeque::new() }
    }

    /// Knocks at the fabric's door.
    fn knock(fabric: &Shm) -> Self {
        let metadata = Metadata::decode(&fabric.metadata().unwrap()).unwrap();
        Self::new(socket::knock(&metadata.address).unwrap())
    }

    /// A peer that the fabric has let in.
    fn guest(fabric: &Shm) -> (Self, PeerId) {
        let mut raw = Self::knock(fabric);
        raw.say(|out| out.hello(&identity("raw", 7), &identity("fabric", 1)));
        assert!(raw.hear(|frame| matches!(frame, Frame::Welcome)));
        let peer = until(fabric, |event| match event {
            Event::Connected(peer, _) => Some(peer),
            _ => None,
        });
        (raw, peer)
    }

    fn say(&self, frames: impl FnOnce(&mut Vec<u8>)) {
        self.say_with(None, frames);
    }

    fn say_with(&self, file: Option<&Region>, frames: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        frames(&mut bytes);
        let file = file.map(|region| region.arena().unwrap().file());
        assert_eq!(socket::send(&self.socket, &bytes, file), Ok(bytes.len()));
    }

    /// What `found` says about the next frame; `None` if the connection ends instead.
    fn next<T>(&mut self, found: impl FnOnce(Frame<'_>) -> T) -> Option<T> {
        loop {
            if let Some((frame, len)) = frame::decode(&self.heard).unwrap() {
                let found = found(frame);
                self.heard.drain(..len);
                return Some(found);
            }
            let mut bytes = [0; 4096];
            let ready = poll(
                &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
                PollTimeout::from(60_000u16),
            );
            assert_eq!(ready, Ok(1), "the fabric says nothing");
            match socket::receive(&self.socket, &mut bytes, &mut self.files) {
                Ok(0) | Err(nix::errno::Errno::ECONNRESET) => return None,
                Ok(count) => self.heard.extend_from_slice(&bytes[..count]),
                Err(errno) => panic!("{errno}"),
            }
        }
    }

    fn hear(&mut self, is: impl Fn(&Frame<'_>) -> bool) -> bool {
        self.next(|frame| is(&frame)).unwrap_or(false)
    }

    /// Whether the fabric has ended the connection, after whatever it has said.
    fn is_shut_out(&mut self) -> bool {
        while self.next(|_| ()).is_some() {}
        true
    }
}

fn request(peer: PeerId, direction: Direction) -> Request {
    let place = Place { region: RegionId(0), offset: 0 };
    let segments = [Segment { local: place, remote: place, len: 4096 }];
    let segments = segments.as_slice().into();
    Request { peer, direction, token: TOKEN, segments, notify: None, deadline: None, checksum: false }
}

fn grant(fabric: &Shm, access: Access) {
    let spans = vec![Span::new(RegionId(0), 0, 4096)];
    fabric.grant(Lease { token: TOKEN, access, spans, deadline: Instant::now() + PATIENCE }).unwrap();
}

#[test]
fn whoever_does_not_say_who_it_is_is_let_go_of() {
    let (fabric, _) = fabric();
    let mut silent = Raw::knock(&fabric);
    assert!(silent.is_shut_out());
    let mut garbage = Raw::knock(&fabric);
    socket::send(&garbage.socket, b"GET / HTTP/1.1\r\nHost: kvferry\r\n\r\n", None).unwrap();
    assert!(garbage.is_shut_out());
    let mut hasty = Raw::knock(&fabric);
    hasty.say(|out| out.notify(b"hello"));
    assert!(hasty.is_shut_out());
    assert_eq!(fabric.poll(&mut Vec::new()), 0, "nobody was a peer");
}

#[test]
fn whoever_expects_another_or_speaks_otherwise_is_told_so() {
    let (fabric, _) = fabric();
    for to in [identity("fabric", 2), identity("other", 1)] {
        let mut raw = Raw::knock(&fabric);
        raw.say(|out| out.hello(&identity("raw", 7), &to));
        assert!(raw.hear(|frame| *frame == Frame::Turned(Turned::Stale(Epoch(1)))));
        assert!(raw.is_shut_out());
    }
    let mut foreign = Raw::knock(&fabric);
    let mut hello = Vec::new();
    hello.hello(&identity("raw", 7), &identity("fabric", 1));
    hello[9] ^= 0x40;
    socket::send(&foreign.socket, &hello, None).unwrap();
    assert!(foreign.hear(|frame| matches!(frame, Frame::Turned(Turned::Version(metadata::VERSION)))));
}

#[test]
fn more_threads_than_there_may_be_are_refused() {
    let mut options = Options::new(AgentName::new("many").unwrap(), Epoch(1));
    options.threads = NonZeroUsize::new(MAX_THREADS + 1).unwrap();
    assert_eq!(Shm::open(options).unwrap_err().code(), "limit");
}

#[test]
fn own_metadata_and_another_machines_are_refused() {
    let (fabric, _) = fabric();
    let own = fabric.metadata().unwrap();
    assert_eq!(fabric.connect(&own).unwrap_err().code(), "bad_metadata");
    let mut other = Metadata::decode(&own).unwrap();
    other.identity = identity("far", 1);
    other.host = [b'x'; 36];
    assert_eq!(fabric.connect(&other.encode()).unwrap_err().code(), "lane");
}

#[test]
fn a_peer_that_never_answers_is_lost() {
    let (fabric, _) = fabric();
    let address = Address::Abstract(format!("kvferry-mute-{}", std::process::id()).into_bytes());
    let _mute = Listener::open(&address, false).unwrap();
    let mute = Metadata { identity: identity("mute", 1), host: metadata::host().unwrap(), address };
    fabric.connect(&mute.encode()).unwrap();
    assert!(lost(&fabric).to_string().contains("did not answer in time"));
}

#[test]
fn a_peer_that_breaks_the_protocol_is_parted_from() {
    let breaches: [fn(&Raw); 10] = [
        |raw| raw.say(Put::welcome),
        |raw| raw.say(|out| out.go(5)),
        |raw| raw.say(|out| out.file(RegionId(0))),
        |raw| {
            let export = Export { uuid: [0; 16], offset: 0, len: 1, handle: [0; 64] };
            raw.say(|out| out.device(RegionId(0), &export));
        },
        |raw| raw.say(|out| out.more_ranges(9, &[])),
        |raw| raw.say(|out| out.read(1, TOKEN, 5000, &[])),
        // A write from a region that it has told nothing about.
        |raw| {
            raw.say(|out| {
                out.write(1, TOKEN, 1, false, None, &request(PeerId(0), Direction::Write).segments);
            });
        },
        // From bytes that its region has not.
        |raw| {
            raw.say_with(Some(&arena()), |out| out.file(RegionId(0)));
            let mut segment = request(PeerId(0), Direction::Write).segments[0];
            segment.local.offset = 1 << 20;
            raw.say(|out| out.write(1, TOKEN, 1, false, None, &[segment]));
        },
        // To the same bytes twice.
        |raw| {
            raw.say_with(Some(&arena()), |out| out.file(RegionId(0)));
            let segment = request(PeerId(0), Direction::Write).segments[0];
            raw.say(|out| out.write(1, TOKEN, 2, false, None, &[segment, segment]));
        },
        |raw| assert_eq!(socket::send(&raw.socket, &[0xff; 64], None), Ok(64)),
    ];
    for (number, breach) in breaches.into_iter().enumerate() {
        let (fabric, region) = fabric();
        grant(&fabric, Access::Write);
        assert!(region.write_at(0, &[5; 4096]));
        let (mut raw, _) = Raw::guest(&fabric);
        breach(&raw);
        if number == 1 {
            // What was asked once may be answered late.
            assert!(raw.hear(|frame| *frame == Frame::Over(5)));
            continue;
        }
        let error = lost(&fabric);
        assert!(error.to_string().contains("broke the protocol"), "{number}: {error}");
        assert!(raw.is_shut_out());
        let mut bytes = [0; 4096];
        assert!(region.read_at(0, &mut bytes) && bytes == [5; 4096], "nothing is written");
        fabric.revoke(TOKEN);
        until(&fabric, |event| (event == Event::Freed(TOKEN)).then_some(()));
    }
}

#[test]
fn a_file_that_could_be_taken_away_is_not_mapped() {
    let (fabric, _) = fabric();
    let (raw, _) = Raw::guest(&fabric);
    let loose =
        nix::sys::memfd::memfd_create(c"loose", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&loose, 4096).unwrap();
    let mut bytes = Vec::new();
    bytes.file(RegionId(0));
    socket::send(&raw.socket, &bytes, Some(loose.as_fd())).unwrap();
    assert!(lost(&fabric).to_string().contains("sealed"));
}

#[test]
fn a_reader_that_does_not_stop_is_parted_from_and_the_bytes_are_free() {
    let (fabric, _) = fabric();
    grant(&fabric, Access::Read);
    let (mut raw, _) = Raw::guest(&fabric);
    raw.say(|out| out.read(3, TOKEN, 1, &request(PeerId(0), Direction::Read).segments));
    assert!(raw.hear(|frame| matches!(frame, Frame::File { .. })));
    assert!(raw.hear(|frame| *frame == Frame::Go(3)));
    assert_eq!(raw.files.len(), 1);
    fabric.revoke(TOKEN);
    assert!(raw.hear(|frame| matches!(frame, Frame::Stop(3, Reason::Refused(Refused::NoLease)))));
    let mut freed = false;
    let error = until(&fabric, |event| match event {
        Event::Freed(TOKEN) => {
            freed = true;
            // Whoever reads from here on can see that it does not count.
            assert!(!socket::is_whole(&raw.socket));
            None
        }
        Event::Lost(_, error) => Some(error),
        other => panic!("{other:?}"),
    });
    assert!(freed && error.to_string().contains("did not stop"), "{error}");
}

#[test]
fn a_writer_that_does_not_stop_is_parted_from_and_the_transfer_ends() {
    let (fabric, _) = fabric();
    let (_raw, peer) = Raw::guest(&fabric);
    let transfer = fabric.submit(request(peer, Direction::Write)).unwrap();
    fabric.cancel(transfer);
    let mut failed = Vec::new();
    let error = until(&fabric, |event| match event {
        Event::Failed(id, error) => {
            failed.push((id, error));
            None
        }
        Event::Lost(_, error) => Some(error),
        other => panic!("{other:?}"),
    });
    assert_eq!(failed, [(transfer, Error::Cancelled)]);
    assert!(error.to_string().contains("did not stop"), "{error}");
}

#[test]
fn a_read_that_nobody_answers_ends_at_once_when_it_is_cancelled_and_a_late_answer_is_let_go() {
    let (fabric, _) = fabric();
    let (mut raw, peer) = Raw::guest(&fabric);
    let transfer = fabric.submit(request(peer, Direction::Read)).unwrap();
    assert!(raw.hear(|frame| matches!(frame, Frame::Read { .. })));
    fabric.cancel(transfer);
    until(&fabric, |event| (event == Event::Failed(transfer, Error::Cancelled)).then_some(()));
    fabric.deregister(RegionId(0)).unwrap();
    raw.say(|out| out.go(transfer.0));
    assert!(raw.hear(|frame| *frame == Frame::Over(transfer.0)));
}

#[test]
fn messages_that_nobody_polls_hold_their_senders_back_and_none_is_lost() {
    let (fabric, _) = fabric();
    let sender = Shm::open(Options::new(AgentName::new("sender").unwrap(), Epoch(1))).unwrap();
    let peer = sender.connect(&fabric.metadata().unwrap()).unwrap();
    until(&sender, |event| matches!(event, Event::Connected(..)).then_some(()));
    let (message, mut sent) = (Bytes::from(vec![7; Limits::MAX_MESSAGE]), 0);
    let start = Instant::now();
    let mut refused = Instant::now();
    // Full for a second: nothing more is taken in.
    while refused.elapsed() < Duration::from_secs(1) {
        match sender.notify(peer, message.clone()) {
            Ok(()) => {
                sent += 1;
                refused = Instant::now();
            }
            Err(error) => assert_eq!(error.code(), "full"),
        }
        assert!(start.elapsed() < PATIENCE, "{sent} messages were taken, and more are");
    }
    assert!(sent * Limits::MAX_MESSAGE < 100 << 20, "{sent} messages wait");
    let mut received = 0;
    until(&fabric, |event| {
        received += usize::from(matches!(event, Event::Notified(..)));
        (received == sent).then_some(())
    });
}

#[test]
fn what_is_copied_is_compared_when_that_is_asked_for() {
    let (fabric, region) = fabric();
    let other = Shm::open(Options::new(AgentName::new("other").unwrap(), Epoch(1))).unwrap();
    let source = arena();
    assert!(source.write_at(0, &[9; 4096]));
    other.register(source).unwrap();
    grant(&other, Access::Read);
    let peer = fabric.connect(&other.metadata().unwrap()).unwrap();
    until(&fabric, |event| matches!(event, Event::Connected(..)).then_some(()));
    let transfer = fabric.submit(Request { checksum: true, ..request(peer, Direction::Read) }).unwrap();
    until(&fabric, |event| (event == Event::Done(transfer)).then_some(()));
    let mut bytes = [0; 4096];
    assert!(region.read_at(0, &mut bytes) && bytes == [9; 4096]);
}

#[test]
fn a_device_that_is_not_here_fails_the_transfer_that_needs_it_and_not_the_peer() {
    let (fabric, region) = fabric();
    grant(&fabric, Access::Write);
    let (mut raw, _) = Raw::guest(&fabric);
    let export = Export { uuid: [0xee; 16], offset: 0, len: 4096, handle: [7; 64] };
    let (ours, theirs) = std::io::pipe().unwrap();
    let mut told = Vec::new();
    told.device(RegionId(0), &export);
    assert_eq!(socket::send(&raw.socket, &told, Some(theirs.as_fd())), Ok(told.len()));
    drop(theirs);
    for number in 1..3 {
        raw.say(|out| {
            out.write(number, TOKEN, 1, false, None, &request(PeerId(0), Direction::Write).segments);
        });
        let told = raw.next(|frame| match frame {
            Frame::No(id, Reason::Machine(text)) if id == number => text,
            other => panic!("{other:?}"),
        });
        let told = told.unwrap();
        assert!(told.contains("CUDA") || told.contains("GPU-eeeeeeee"), "it says what is missing: {told}");
    }
    let mut bytes = [1; 4096];
    assert!(region.read_at(0, &mut bytes) && bytes == [0; 4096], "nothing is written");
    let mut held = [PollFd::new(ours.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut held, PollTimeout::ZERO), Ok(0), "it may need it still");
    raw.say(|out| out.forget(RegionId(0)));
    assert_eq!(poll(&mut held, PollTimeout::from(60_000u16)), Ok(1), "it has let go");
}

#[test]
fn a_kind_that_cannot_be_reached_is_refused_when_it_is_registered() {
    let (fabric, region) = fabric();
    let base = region.address(0, 0).unwrap();
    for kind in [Kind::Cuda(Device(0)), Kind::Rocm(Device(0)), Kind::Xpu(Device(0)), Kind::Tpu(Device(0))] {
        #[expect(unsafe_code, reason = "a region that is looked at only")]
        // SAFETY: the bytes are the other region's, which is kept.
        let other = unsafe { Region::foreign(base, 4096, kind, std::sync::Arc::new(region.clone())) };
        assert_eq!(fabric.register(other), Err(Error::MemoryKind(kind.name())));
    }
}
