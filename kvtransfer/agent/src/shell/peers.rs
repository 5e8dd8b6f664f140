//! Peers: from the connection that brings one to the loss of it, and what it says in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kvferry_transfer::{AgentName, Epoch, RegionId};
use tokio::net::TcpStream;

use super::link::Link;
use super::meet::{self, Meeting};
use super::run::Shell;
use super::{Arrival, Wanted};
use crate::Error;
use crate::agent::random;
use crate::books::lock;
use crate::core::PeerNo;
use crate::events::{Event, Peer};
use crate::limits::{MAX_METADATA, MAX_STRANGERS};
use crate::protocol::{Carried, Frame, Hello, Role, TableRegion};
use crate::roster::{Identity, Joined, LinkNo};

/// A peer that is met.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) handle: Peer,
    /// The connection that this side speaks on.
    link: LinkNo,
    pub(super) fabrics: Vec<Carried>,
    pub(super) regions: BTreeMap<RegionId, TableRegion>,
    /// Checksums that it waits for.
    pub(super) checks: usize,
    /// What was last said of lanes that others stand in for: the one that does, and why.
    fell: Option<(Arc<str>, String)>,
}

impl Shell {
    /// Connects.
    pub(super) fn call(
        &mut self,
        address: String,
        expected: Option<(AgentName, Option<Epoch>)>,
        wanted: Wanted,
    ) {
        if self.calls >= MAX_STRANGERS {
            drop(wanted.send(Err(Error::Full("connections being made (512)"))));
            return;
        }
        self.calls += 1;
        tokio::spawn(meet::call(self.own.clone(), address, expected, wanted));
    }

    /// Somebody has connected.
    pub(super) fn greet(&mut self, stream: TcpStream) {
        // Beyond that, they are let go without a word.
        if self.strangers < MAX_STRANGERS {
            self.strangers += 1;
            tokio::spawn(meet::answer(self.own.clone(), stream));
        }
    }

    /// Somebody has shown who it is: what to say to it.
    pub(super) fn arrived(&mut self, who: &Identity, role: Role) -> Result<Arrival, Error> {
        if role == Role::Caller
            && let Some(met) = self.roster.crowded(who).and_then(|peer| self.peers.get(&peer))
        {
            return Ok(Arrival::Known(met.handle.clone()));
        }
        if self.shared.unheard.bytes() > self.shared.unheard_most / 2 {
            return Err(Error::Full("events that wait for this agent's owner (take them, or drop `Events`)"));
        }
        let mut fresh = [0; 8];
        random(&mut fresh)?;
        let hello = self.offer()?;
        let session = self.roster.arrive(who, u64::from_le_bytes(fresh))?;
        Ok(Arrival::Welcome(session, Frame::Hello(Box::new(Hello { session, ..hello })).encode()))
    }

    /// What this side has, by now.
    fn offer(&self) -> Result<Hello, Error> {
        let carried = |carrier: &crate::options::Carrier| {
            let metadata = match carrier.fabric.metadata() {
                Ok(metadata) => metadata,
                // Peers can do nothing with none; the other fabrics go on.
                Err(kvferry_transfer::Error::Closed) => Bytes::new(),
                Err(error) => return Err(error.into()),
            };
            if metadata.len() > MAX_METADATA {
                return Err(Error::Full("bytes of a fabric's metadata (128 KiB)"));
            }
            Ok(Carried { kind: carrier.kind.clone(), metadata })
        };
        let fabrics = self.shared.carriers.iter().map(carried).collect::<Result<_, Error>>()?;
        let regions = lock(&self.shared.regions).table();
        Ok(Hello { session: 0, fabrics, regions, about: self.about.clone() })
    }

    pub(super) fn not_met(&mut self, error: Error, said: Option<(Identity, u64)>, wanted: Option<Wanted>) {
        self.has_begun(wanted.is_some());
        if let Some((who, said)) = said {
            self.roster.leave_early(&who, said);
        }
        if let Some(wanted) = wanted {
            drop(wanted.send(Err(error)));
        } else {
            tracing::debug!(%error, "somebody who connected is no peer");
        }
    }

    /// A connection has begun, or will not: one that was `called` from here, or one to here.
    fn has_begun(&mut self, called: bool) {
        let count = if called { &mut self.calls } else { &mut self.strangers };
        *count = count.saturating_sub(1);
    }

    /// Whoever was called is a peer already.
    pub(super) fn met_before(&mut self, peer: Peer, wanted: Option<Wanted>) {
        self.has_begun(wanted.is_some());
        if let Some(wanted) = wanted {
            drop(wanted.send(Ok(peer)));
        }
    }

    /// A connection is complete.
    pub(super) fn met(&mut self, meeting: Meeting, wanted: Option<Wanted>) {
        self.has_begun(wanted.is_some());
        let result = self.join(meeting);
        match (&result, wanted) {
            (_, Some(wanted)) => drop(wanted.send(result)),
            (Err(error), None) => tracing::warn!(%error, "a connection of a peer is of no use"),
            (Ok(_), None) => {}
        }
    }

    fn join(&mut self, meeting: Meeting) -> Result<Peer, Error> {
        let Meeting { who, said, hello, stream } = meeting;
        let no = self.new_link();
        let joined = self.roster.join(&who, said, hello.session, no)?;
        // Whatever of the old life still has a connection is void.
        for old in self.roster.other_lives(&who) {
            self.lose_link(old, &Error::PeerLost("another life of it has come".into()));
        }
        let now = self.now();
        let (mail, room) = (self.own.mail.clone(), Arc::clone(&self.room));
        let link = Link::new(no, stream, mail, room, self.silence, now);
        self.links.insert(no, link);
        if let Joined::Another(peer) = joined {
            return self.peers.get(&peer).map(|met| met.handle.clone()).ok_or(Error::Closed);
        }
        if let Joined::Anew(old, links) = joined {
            for link in links {
                self.links.remove(&link);
            }
            if let Some(met) = self.peers.get(&old) {
                met.handle.0.gone.store(true, Ordering::Relaxed);
            }
            self.core.lost(now, old, &Error::PeerLost("it has lost this side and begins anew".into()));
            self.obey();
        }
        self.first(&who, no, hello).inspect_err(|error| self.lose_link(no, error))
    }

    /// A peer is met for the first time.
    fn first(&mut self, who: &Identity, link: LinkNo, hello: Hello) -> Result<Peer, Error> {
        let (specs, pairs) = self.common(&hello.fabrics);
        let now = self.now();
        let no = self.core.met(now, who.0.clone(), who.1, specs)?;
        self.roster.met(who, no);
        self.new_lanes(no, pairs);
        let handle = Peer::new(no, who.0.clone(), who.1, hello.about);
        let met = Met {
            handle: handle.clone(),
            link,
            fabrics: hello.fabrics,
            regions: hello.regions,
            checks: 0,
            fell: None,
        };
        self.peers.insert(no, met);
        tracing::info!(peer = %handle, "met");
        self.tell(Event::Connected(handle.clone()));
        self.obey();
        // Regions that were registered since the hello was written.
        self.say_tables_to(&[no]);
        Ok(handle)
    }

    /// A peer says something.
    pub(super) fn said(&mut self, link: LinkNo, said: Result<Frame, Error>) {
        let now = self.now();
        let Some(of) = self.links.get_mut(&link) else { return };
        of.heard = now;
        let Some(no) = self.roster.peer(link) else { return };
        let frame = match said {
            Ok(frame) => frame,
            Err(error) => return self.lose_link(link, &error),
        };
        match frame {
            Frame::Ping => {}
            Frame::Table(hello) => self.heard_table(no, link, *hello),
            Frame::Notify(message) => self.heard_notify(no, link, message),
            Frame::Heard(messages, weight) => {
                if let Some(met) = self.peers.get(&no) {
                    met.handle.0.heard(messages, weight);
                }
            }
            Frame::Check { number, token, access, spans } => {
                self.heard_check(no, link, number, token, access, &spans);
            }
            Frame::Checked { number, sums } => self.heard_sums(no, number, Ok(sums)),
            Frame::Unchecked { number, code, words } => self.heard_sums(no, number, Err((code, words))),
            Frame::Bye(words) => {
                self.lose_link(link, &Error::PeerLost(format!("it has said goodbye: {words}")));
            }
            Frame::Greeting(_) | Frame::Proof(_) | Frame::Hello(_) | Frame::Refuse(..) => {
                self.lose_link(link, &Error::Malformed("it is not what is said at that point"));
            }
        }
    }

    fn heard_notify(&mut self, no: PeerNo, link: LinkNo, message: Bytes) {
        let Some(met) = self.peers.get(&no) else { return };
        let waiting = self.shared.unheard.bytes().saturating_add(message.len() as u64);
        if waiting > self.shared.unheard_most {
            let error = Error::Full("events that wait for this agent's owner");
            return self.lose_link(link, &error);
        }
        if met.handle.0.received(message.len()) {
            self.tell(Event::Notified(met.handle.clone(), message));
        } else {
            self.lose_link(link, &Error::Malformed("it sends more messages than may wait"));
        }
    }

    fn heard_table(&mut self, no: PeerNo, link: LinkNo, hello: Hello) {
        let Some(met) = self.peers.get_mut(&no) else { return };
        let kinds = |fabrics: &[Carried]| fabrics.iter().map(|of| of.kind.clone()).collect::<Vec<_>>();
        if kinds(&met.fabrics) != kinds(&hello.fabrics) {
            return self.lose_link(link, &Error::Malformed("its fabrics are others than before"));
        }
        (met.fabrics, met.regions) = (hello.fabrics, hello.regions);
        self.renew_lanes(no);
    }

    /// Lets peers know of regions that have come or gone.
    pub(super) fn say_tables(&mut self) {
        let all: Vec<PeerNo> = self.peers.keys().copied().collect();
        self.say_tables_to(&all);
    }

    fn say_tables_to(&mut self, peers: &[PeerNo]) {
        // A fabric that is closed has nothing to tell; its end is told by events.
        let Ok(hello) = self.offer() else { return };
        let frame = Frame::Table(Box::new(hello)).encode();
        for peer in peers {
            self.say(*peer, frame.clone());
        }
    }

    pub(super) fn say_notify(&mut self, peer: PeerNo, message: Bytes) {
        self.say(peer, Frame::Notify(message).encode());
    }

    pub(super) fn say_heard(&mut self, peer: PeerNo, messages: u64, weight: u64) {
        self.say(peer, Frame::Heard(messages, weight).encode());
    }

    /// Says something to a peer, if it is there.
    pub(super) fn say(&mut self, peer: PeerNo, frame: Bytes) {
        let Some(met) = self.peers.get(&peer) else { return };
        self.say_on(met.link, frame);
    }

    pub(super) fn say_on(&mut self, link: LinkNo, frame: Bytes) {
        let Some(of) = self.links.get_mut(&link) else { return };
        if !of.say(frame) {
            self.lose_link(link, &Error::PeerLost("it does not read what it is told (32 MiB wait)".into()));
        }
    }

    /// A connection has ended, or must: the peer is lost by that.
    pub(super) fn lose_link(&mut self, link: LinkNo, error: &Error) {
        let Some((who, peer, links)) = self.roster.part(link) else {
            self.links.remove(&link);
            return;
        };
        tracing::info!(peer = %who.0, epoch = %who.1, %error, "lost");
        let bye = Frame::Bye(error.to_string()).encode();
        for link in links {
            if let Some(mut link) = self.links.remove(&link) {
                // It may not hear it any more.
                let _ = link.say(bye.clone());
            }
        }
        if let Some(peer) = peer {
            if let Some(met) = self.peers.get(&peer) {
                met.handle.0.gone.store(true, Ordering::Relaxed);
            }
            let now = self.now();
            self.core.lost(now, peer, error);
        }
    }

    /// Parts from a peer.
    pub(super) fn part(&mut self, peer: PeerNo, error: &Error) {
        if let Some(link) = self.peers.get(&peer).map(|met| met.link) {
            self.lose_link(link, error);
        }
    }

    /// A slower lane carries a transfer. Every one is counted; it is said once, until something changes.
    pub(super) fn fell_back(&mut self, peer: PeerNo, to: &Arc<str>, from: String) {
        let Some(met) = self.peers.get_mut(&peer) else { return };
        let said = met.fell.as_ref().is_some_and(|(lane, why)| lane == to && *why == from);
        if !said {
            tracing::warn!(peer = %met.handle, lane = %to, because = %from, "a slower lane carries transfers");
            met.fell = Some((Arc::clone(to), from));
        }
    }

    /// Nothing is left of a peer.
    pub(super) fn gone(&mut self, no: PeerNo, error: Error) {
        self.forget_lanes(no);
        if let Some(met) = self.peers.remove(&no) {
            self.tell(Event::Lost(met.handle, error));
        }
    }
}
