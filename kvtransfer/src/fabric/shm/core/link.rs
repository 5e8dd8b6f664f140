//! One connection: what has come and is not understood yet, and what is to go and does not fit into the socket yet.
//!
//! What waits to go is bounded: requests wait as they were submitted and become bytes only when there is room, and beside
//! them there are answers, of which there is one for each request of the peer's.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::super::frame::{MAX_FRAME, MAX_PART, Put};
use super::super::socket;
use crate::fabric::{Direction, Request};

/// Requests become bytes while fewer than this wait for the socket: about what a socket buffer of Linux takes, so that it
/// never runs dry.
const FILL: usize = 256 << 10;

/// Files that came and that no frame has claimed yet. A frame follows its file at once.
const MAX_UNCLAIMED: usize = 4;

/// Bytes received at a time. Two of the longest frames, so that each time makes progress.
pub(in super::super) const INBOX: usize = 2 * MAX_FRAME;

#[derive(Debug)]
pub(in super::super) struct Link {
    pub(in super::super) id: u64,
    pub(in super::super) socket: Arc<OwnedFd>,
    /// The other process, 0 if it cannot be seen.
    pub(in super::super) pid: i32,
    /// The begin of a frame whose end has not come. A connection that is idle keeps nothing.
    begun: Vec<u8>,
    pub(in super::super) files: VecDeque<OwnedFd>,
    outbox: VecDeque<Packet>,
    waiting: usize,
    /// Requests that are not bytes yet. Those of one part overtake the rest.
    short: VecDeque<Asking>,
    long: VecDeque<Asking>,
    /// What the event loop waits for.
    interest: EpollFlags,
    /// Whether nothing is taken from the peer for now.
    pub(in super::super) paused: bool,
}

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    sent: usize,
    /// Goes with the first byte.
    file: Option<Arc<OwnedFd>>,
}

#[derive(Debug)]
struct Asking {
    id: u64,
    request: Arc<Request>,
    /// Segments that are bytes by now.
    said: usize,
}

/// What was still to be done about a request that is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Withdrawn {
    /// The peer has not heard of it.
    Unsaid,
    /// The peer has heard of some of it, and has not begun.
    HalfSaid,
    /// The peer has heard, or will hear, all of it.
    Said,
}

/// What came of receiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Received {
    /// That many bytes, with those that were kept.
    Bytes(usize),
    /// Nothing, for now.
    Nothing,
    /// The end, and why.
    End(&'static str),
}

impl Link {
    /// A connection, watched by `epoll` under its number.
    pub(in super::super) fn new(id: u64, socket: OwnedFd, pid: i32, epoll: &Epoll) -> Result<Self, Errno> {
        let interest = EpollFlags::EPOLLIN;
        epoll.add(&socket, EpollEvent::new(interest, id))?;
        Ok(Self {
            id,
            socket: Arc::new(socket),
            pid,
            begun: Vec::new(),
            files: VecDeque::new(),
            outbox: VecDeque::new(),
            waiting: 0,
            short: VecDeque::new(),
            long: VecDeque::new(),
            interest,
            paused: false,
        })
    }

    /// Appends frames to what goes out.
    pub(in super::super) fn say(&mut self, frames: impl FnOnce(&mut Vec<u8>)) {
        let before = match self.outbox.back_mut() {
            Some(last) if last.bytes.len() < FILL => last.bytes.len(),
            _ => {
                self.outbox.push_back(Packet { bytes: Vec::new(), sent: 0, file: None });
                0
            }
        };
        let last = self.outbox.back_mut().expect("there is one now");
        frames(&mut last.bytes);
        self.waiting += last.bytes.len() - before;
    }

    /// Likewise, with a file along.
    pub(in super::super) fn say_with(&mut self, file: Arc<OwnedFd>, frames: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        frames(&mut bytes);
        self.waiting += bytes.len();
        self.outbox.push_back(Packet { bytes, sent: 0, file: Some(file) });
    }

    /// Asks for a transfer, once there is room.
    pub(in super::super) fn ask(&mut self, id: u64, request: Arc<Request>) {
        let line = if request.segments.len() <= MAX_PART { &mut self.short } else { &mut self.long };
        line.push_back(Asking { id, request, said: 0 });
    }

    /// Takes a request back, as far as that can be.
    pub(in super::super) fn withdraw(&mut self, id: u64) -> Withdrawn {
        for line in [&mut self.short, &mut self.long] {
            if let Some(at) = line.iter().position(|asking| asking.id == id) {
                let asking = line.remove(at).expect("it was found there");
                return if asking.said == 0 { Withdrawn::Unsaid } else { Withdrawn::HalfSaid };
            }
        }
        Withdrawn::Said
    }

    /// Bytes that wait for the socket.
    pub(in super::super) const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Sends what fits. What goes wrong shows when the event loop next reads.
    pub(in super::super) fn flush(&mut self, epoll: &Epoll) {
        let stuck = loop {
            while self.waiting < FILL && self.say_part() {}
            let Some(packet) = self.outbox.front_mut() else { break false };
            let file = packet.file.as_ref().filter(|_| packet.sent == 0).map(|file| file.as_fd());
            match socket::send(&self.socket, &packet.bytes[packet.sent..], file) {
                Ok(sent) => {
                    packet.sent += sent;
                    self.waiting -= sent;
                    if packet.sent == packet.bytes.len() {
                        self.outbox.pop_front();
                    }
                }
                Err(Errno::EAGAIN) => break true,
                Err(_) => break false,
            }
        };
        self.watch(epoll, EpollFlags::EPOLLOUT, stuck);
    }

    /// Makes the next part of a request bytes. One long request at a time is under way, so that the peer collects one at a
    /// time; short ones are whole, and take turns with it.
    fn say_part(&mut self) -> bool {
        if let Some(asking) = self.short.pop_front() {
            self.say(|out| first_part(out, &asking));
        }
        let Some(mut asking) = self.long.pop_front() else { return !self.short.is_empty() };
        self.say(|out| if asking.said == 0 { first_part(out, &asking) } else { next_part(out, &asking) });
        asking.said += MAX_PART;
        if asking.said < asking.request.segments.len() {
            self.long.push_front(asking);
        }
        true
    }

    /// Receives what is there into `scratch` ([`INBOX`] bytes), after what was [kept](Self::keep).
    pub(in super::super) fn receive(&mut self, scratch: &mut [u8]) -> Received {
        let (kept, room) = scratch.split_at_mut(self.begun.len());
        match socket::receive(&self.socket, room, &mut self.files) {
            Ok(0) => Received::End("it has parted, or its process has ended"),
            Ok(_) if self.files.len() > MAX_UNCLAIMED => {
                Received::End("it sent files that belong to nothing")
            }
            Ok(count) => {
                kept.copy_from_slice(&self.begun);
                let filled = kept.len() + count;
                self.begun = Vec::new();
                Received::Bytes(filled)
            }
            Err(Errno::EAGAIN) => Received::Nothing,
            Err(Errno::ECONNRESET) => Received::End("its process has ended"),
            Err(_) => Received::End("its connection broke"),
        }
    }

    /// Keeps the begin of a frame until the rest comes.
    pub(in super::super) fn keep(&mut self, begun: &[u8]) {
        self.begun = begun.to_vec();
    }

    /// Takes nothing from the peer for now, or goes on.
    pub(in super::super) fn pause(&mut self, epoll: &Epoll, paused: bool) {
        self.paused = paused;
        self.watch(epoll, EpollFlags::EPOLLIN, !paused);
    }

    fn watch(&mut self, epoll: &Epoll, what: EpollFlags, on: bool) {
        let mut interest = self.interest;
        interest.set(what, on);
        if interest != self.interest {
            self.interest = interest;
            let changed = epoll.modify(&self.socket, &mut EpollEvent::new(interest, self.id));
            debug_assert!(changed.is_ok(), "a watched socket stays so until it is severed: {changed:?}");
        }
    }

    /// Ends the connection.
    pub(in super::super) fn sever(self, epoll: &Epoll) {
        socket::sever(&self.socket);
        // Jobs may hold the socket for a moment longer, so it does not leave the event loop by itself.
        epoll.delete(&self.socket).ok();
    }
}

fn first_part(out: &mut Vec<u8>, asking: &Asking) {
    let Request { direction, token, segments, notify, checksum, .. } = &*asking.request;
    let part = &segments[..segments.len().min(MAX_PART)];
    match direction {
        Direction::Read => out.read(asking.id, *token, segments.len(), part),
        Direction::Write => {
            out.write(asking.id, *token, segments.len(), *checksum, notify.as_deref(), part);
        }
    }
}

fn next_part(out: &mut Vec<u8>, asking: &Asking) {
    let segments = &asking.request.segments;
    let part = &segments[asking.said..segments.len().min(asking.said + MAX_PART)];
    match asking.request.direction {
        Direction::Read => out.more_ranges(asking.id, part),
        Direction::Write => out.more_pairs(asking.id, part),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use nix::sys::epoll::EpollCreateFlags;

    use super::super::super::frame::{self, Frame};
    use super::*;
    use crate::{PeerId, Place, RegionId, Segment, Token};

    fn pair() -> (Epoll, Link, Link) {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let link =
            |id, socket: std::os::unix::net::UnixStream| Link::new(id, socket.into(), 0, &epoll).unwrap();
        let (one, other) = (link(0, one), link(1, other));
        (epoll, one, other)
    }

    fn request(segments: usize) -> Arc<Request> {
        let place = |offset: usize| Place { region: RegionId(0), offset: offset as u64 };
        let segments = (0..segments).map(|at| Segment { local: place(at), remote: place(at), len: 1 });
        Arc::new(Request {
            peer: PeerId(0),
            direction: Direction::Read,
            token: Token([0; 16]),
            segments: segments.collect(),
            notify: Option::<Bytes>::None,
            deadline: None,
            checksum: false,
        })
    }

    /// Everything that arrives: (transfer, ranges).
    fn heard(epoll: &Epoll, from: &mut Link, to: &mut Link) -> Vec<(u64, usize)> {
        let (mut heard, mut scratch) = (Vec::new(), vec![0; INBOX]);
        loop {
            from.flush(epoll);
            let Received::Bytes(filled) = to.receive(&mut scratch) else { return heard };
            let mut unread = &scratch[..filled];
            while let Some((frame, len)) = frame::decode(unread).unwrap() {
                heard.push(match frame {
                    Frame::Read { id, part, .. } | Frame::MoreRanges { id, part } => {
                        (id, part.items().count())
                    }
                    other => panic!("{other:?}"),
                });
                unread = &unread[len..];
            }
            to.keep(unread);
        }
    }

    #[test]
    fn a_short_request_overtakes_the_parts_of_a_long_one_and_nothing_is_lost() {
        let (epoll, mut one, mut other) = pair();
        one.ask(1, request(100 * MAX_PART + 1));
        one.flush(&epoll);
        one.ask(2, request(3));
        let heard = heard(&epoll, &mut one, &mut other);
        let short = heard.iter().position(|part| *part == (2, 3)).unwrap();
        assert!(short < 30, "{short}");
        let long: usize = heard.iter().filter(|part| part.0 == 1).map(|part| part.1).sum();
        assert_eq!(long, 100 * MAX_PART + 1);
        assert_eq!(one.waiting(), 0);
    }

    #[test]
    fn a_request_can_be_taken_back_until_it_is_said() {
        let (epoll, mut one, _other) = pair();
        for id in 1..4 {
            one.ask(id, request(100 * MAX_PART));
        }
        one.flush(&epoll);
        assert_eq!(one.withdraw(1), Withdrawn::HalfSaid);
        assert_eq!(one.withdraw(2), Withdrawn::Unsaid);
        assert_eq!(one.withdraw(9), Withdrawn::Said);
    }

    #[test]
    fn the_end_shows_after_the_last_byte() {
        let (epoll, mut one, mut other) = pair();
        one.say(Put::welcome);
        one.flush(&epoll);
        one.sever(&epoll);
        let mut scratch = vec![0; INBOX];
        assert_eq!(other.receive(&mut scratch), Received::Bytes(5));
        assert!(matches!(other.receive(&mut scratch), Received::End(_)));
    }
}
