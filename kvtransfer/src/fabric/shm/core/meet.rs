//! Peers come and go. Two that knock at each other's door at the same time must end with one connection, and a peer that was
//! started anew must not be taken for what it was.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::link::Link;
use super::timers::{Due, KNOCK_AGAIN, REST};
use super::{Core, Peer, State};
use crate::fabric::common::Identity;
use crate::fabric::shm::frame::{Put, Turned};
use crate::fabric::shm::metadata::{Metadata, VERSION};
use crate::fabric::shm::socket::{self, Address};
use crate::fabric::{Event, Limits};
use crate::{Error, PeerId};

impl Core {
    pub(in super::super) fn connect(&mut self, metadata: &[u8]) -> Result<PeerId, Error> {
        self.open()?;
        let Metadata { identity, host, address } = Metadata::decode(metadata)?;
        if identity == self.me.identity {
            return Err(Error::Metadata("it is this side's own"));
        }
        if host != self.me.host {
            return Err(Error::Lane("shm".into(), "another machine, or another run of this one".into()));
        }
        if let Some(known) = self.by_identity.get(&identity) {
            return Ok(*known);
        }
        let id = self.add_peer(identity, State::Meeting { address }, None)?;
        let due = Instant::now() + self.options.meet_within;
        self.timers.add(due, Due::Meeting(id));
        self.knock(id);
        Ok(id)
    }

    fn add_peer(&mut self, identity: Identity, state: State, link: Option<Link>) -> Result<PeerId, Error> {
        if self.peers.len() >= Limits::MAX_PEERS {
            return Err(Error::Full("peers at a time (4096)"));
        }
        let id = PeerId(self.next_peer);
        self.next_peer = self.next_peer.checked_add(1).ok_or(Error::Full("peers of one epoch"))?;
        self.by_identity.insert(identity.clone(), id);
        if let Some(link) = &link {
            self.by_link.insert(link.id, id);
        }
        self.peers.insert(id, Peer::new(identity, state, link));
        Ok(id)
    }

    fn new_link(&mut self, socket: OwnedFd, pid: i32) -> Result<Link, Errno> {
        let link = Link::new(self.next_link, socket, pid, &self.epoll);
        self.next_link += 1;
        link
    }

    /// Knocks at the door of a peer that is to be met.
    pub(super) fn knock(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (State::Meeting { address }, None) = (&peer.state, &peer.link) else { return };
        let address = address.clone();
        let link = match socket::knock(&address) {
            Ok(socket) => match self.admit(&socket) {
                Ok(pid) => {
                    self.new_link(socket, pid).map_err(|errno| Error::System("epoll_ctl", errno as i32))
                }
                Err(error) => Err(error),
            },
            Err(Errno::EAGAIN) => {
                self.timers.add(Instant::now() + KNOCK_AGAIN, Due::Knock(id));
                return;
            }
            Err(errno) => Err(unreachable(&address, errno)),
        };
        match link {
            Ok(mut link) => {
                let peer = self.peers.get_mut(&id).expect("it was found above");
                link.say(|out| out.hello(&self.me.identity, &peer.identity));
                link.flush(&self.epoll);
                self.by_link.insert(link.id, id);
                peer.adopt(link);
            }
            Err(error) => self.lose(id, &error),
        }
    }

    /// The other end's process, if its user may be met.
    fn admit(&self, socket: &OwnedFd) -> Result<i32, Error> {
        let found = socket::credentials(socket)?;
        let own = nix::unistd::geteuid().as_raw();
        if found.uid == own || self.options.uids.contains(&found.uid) {
            return Ok(found.pid);
        }
        Err(Error::Lost(format!(
            "its process runs as user {}, this one as {own}; add it to the users that may connect if it should",
            found.uid
        )))
    }

    /// Lets in whoever knocks. Returns whether it must rest.
    pub(in super::super) fn accept(&mut self) {
        loop {
            let Some(listener) = &self.listener else { return };
            match listener.accept() {
                Ok(None) => return,
                Ok(Some(socket)) => self.greet(socket),
                Err(_) => {
                    // No more descriptors. The socket stays readable, so watching it would be a busy loop.
                    self.epoll.delete(listener).ok();
                    self.timers.add(Instant::now() + REST, Due::Listen);
                    return;
                }
            }
        }
    }

    pub(super) fn listen_again(&mut self) {
        if let Some(listener) = &self.listener {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, super::super::progress::LISTENER);
            self.epoll.add(listener, event).ok();
        }
    }

    fn greet(&mut self, socket: OwnedFd) {
        let admitted = self.admit(&socket);
        let Ok(mut link) = self.new_link(socket, *admitted.as_ref().unwrap_or(&0)) else { return };
        if admitted.is_err() {
            return turn_away(link, &self.epoll, Turned::Stranger);
        }
        if self.guests.len() + self.peers.len() >= 2 * Limits::MAX_PEERS {
            return turn_away(link, &self.epoll, Turned::Full);
        }
        link.paused = false;
        self.timers.add(Instant::now() + self.options.meet_within, Due::Guest(link.id));
        self.guests.insert(link.id, link);
    }

    /// Somebody who knocked says who it is, and whom it wants to meet.
    pub(super) fn guest_says(&mut self, link: u64, from: Identity, to: &Identity) {
        let Some(link) = self.guests.remove(&link) else { return };
        if *to != self.me.identity || from == self.me.identity {
            return turn_away(link, &self.epoll, Turned::Stale(self.me.identity.epoch));
        }
        if let Some(id) = self.by_identity.get(&from).copied() {
            let peer = self.peers.get_mut(&id).expect("peers that have a name are there");
            match (&peer.state, peer.link.take()) {
                (State::Meeting { .. }, None) => return self.welcome(id, link),
                (State::Meeting { .. }, Some(own)) if self.me.identity < from => {
                    // Both have knocked. The lesser name's connection is taken, by both.
                    peer.link = Some(own);
                    return turn_away(link, &self.epoll, Turned::Met);
                }
                (State::Meeting { .. }, Some(own)) => {
                    self.by_link.remove(&own.id);
                    own.sever(&self.epoll);
                    return self.welcome(id, link);
                }
                (_, Some(old)) if socket::is_whole(&old.socket) => {
                    peer.link = Some(old);
                    return turn_away(link, &self.epoll, Turned::Met);
                }
                (_, old) => {
                    // It has parted and comes back, faster than its end was seen here.
                    peer.link = old;
                    self.lose(id, &Error::Lost("it has parted, and comes back".into()));
                }
            }
        }
        match self.add_peer(from, State::Up, None) {
            Ok(id) => self.welcome(id, link),
            Err(_) => turn_away(link, &self.epoll, Turned::Full),
        }
    }

    /// Somebody who knocked speaks another version.
    pub(super) fn guest_is_foreign(&mut self, link: u64) {
        if let Some(link) = self.guests.remove(&link) {
            turn_away(link, &self.epoll, Turned::Version(VERSION));
        }
    }

    fn welcome(&mut self, id: PeerId, mut link: Link) {
        link.say(Put::welcome);
        link.flush(&self.epoll);
        self.by_link.insert(link.id, id);
        let peer = self.peers.get_mut(&id).expect("whoever is welcomed is known");
        peer.adopt(link);
        self.up(id);
    }

    /// The peer has let this side in, or this side has let it in.
    pub(super) fn up(&mut self, id: PeerId) {
        let peer = self.peers.get_mut(&id).expect("whoever is up is known");
        peer.state = State::Up;
        self.events.push(Event::Connected(id, peer.lane()));
    }

    /// The peer does not let this side in.
    pub(super) fn turned_away(&mut self, id: PeerId, why: Turned) {
        let peer = self.peers.get_mut(&id).expect("the caller has found it");
        let error = match why {
            Turned::Met => {
                // It has knocked here, too, or is about to. If not, the meeting's time ends.
                if let Some(link) = peer.link.take() {
                    self.by_link.remove(&link.id);
                    link.sever(&self.epoll);
                }
                return;
            }
            Turned::Version(theirs) => Error::Version(theirs, VERSION),
            Turned::Stale(found) => Error::StaleEpoch(peer.identity.epoch, found),
            Turned::Full => Error::Full("peers of the peer (4096)"),
            Turned::Stranger => {
                Error::Lost("it does not know this process' user; add it to its users".into())
            }
        };
        self.lose(id, &error);
    }

    pub(super) fn end_meeting(&mut self, id: PeerId) {
        if self.peers.get(&id).is_some_and(|peer| matches!(peer.state, State::Meeting { .. })) {
            self.lose(id, &Error::Lost("it did not answer in time".into()));
        }
    }

    pub(in super::super) fn disconnect(&mut self, id: PeerId) {
        self.lose(id, &Error::Cancelled);
    }

    /// Parts from a peer: everything with it fails, and then it is lost.
    pub(in super::super) fn lose(&mut self, id: PeerId, why: &Error) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if matches!(peer.state, State::Parting(_)) {
            return;
        }
        peer.state = State::Parting(why.clone());
        self.by_identity.remove(&peer.identity);
        // First of all: what is copied from here on does not count, on either side.
        if let Some(link) = peer.link.take() {
            self.by_link.remove(&link.id);
            link.sever(&self.epoll);
        }
        peer.collecting = None;
        peer.sources.clear();
        self.stop_serving(id);
        self.fail_all_with(id, why);
        self.finish_parting(id);
    }

    /// Says that a peer is lost once nothing of it is left.
    pub(super) fn finish_parting(&mut self, id: PeerId) {
        let Some(Peer { state: State::Parting(why), jobs: 0, .. }) = self.peers.get(&id) else { return };
        self.events.push(Event::Lost(id, why.clone()));
        self.peers.remove(&id);
    }
}

impl Peer {
    fn adopt(&mut self, link: Link) {
        self.socket = Some(std::sync::Arc::clone(&link.socket));
        self.link = Some(link);
    }
}

fn turn_away(mut link: Link, epoll: &nix::sys::epoll::Epoll, why: Turned) {
    link.say(|out| out.turned(why));
    link.flush(epoll);
    link.sever(epoll);
}

fn unreachable(address: &Address, errno: Errno) -> Error {
    Error::Lost(match errno {
        Errno::ECONNREFUSED | Errno::ENOENT => format!(
            "nobody listens at {address}: its process has ended, or lives in another network namespace (then let both \
             listen at a path in a volume that they share)"
        ),
        errno => format!("knocking at {address}: {}", errno.desc()),
    })
}
