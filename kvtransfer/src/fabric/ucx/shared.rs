//! What callers and the progress thread both know: behind one lock, held only to look something up.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::inbox::Inbox;
use crate::fabric::common::{EventQueue, Identity};
use crate::fabric::{Event, Lane, Limits};
use crate::lease::{Lease, Leases, Use};
use crate::memory::Registry;
use crate::{Error, PeerId, RegionId, Segment, Token};

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) events: EventQueue,
    pub(super) inbox: Inbox,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) registry: Registry,
    /// How many transfers of this side name a region.
    uses: HashMap<RegionId, usize>,
    pub(super) leases: Leases,
    granted: HashMap<Token, Granted>,
    peers: HashMap<PeerId, Known>,
    by_identity: HashMap<Identity, PeerId>,
    pub(super) under_way: usize,
    next_peer: u32,
    pub(super) next_transfer: u64,
    pub(super) closed: bool,
}

/// A lease that has not been freed.
#[derive(Debug)]
struct Granted {
    deadline: Instant,
    ended: bool,
}

/// A peer that is not lost.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Once it can be used.
    pub(super) lane: Option<Lane>,
    /// Whether a caller has its number, and must hear of its end.
    pub(super) named: bool,
    /// What the messages weigh that it has not polled.
    pub(super) unpolled: usize,
}

impl Shared {
    /// # Errors
    /// If the process can have no more descriptors.
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { state: Mutex::default(), events: EventQueue::new()?, inbox: Inbox::new()? })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the fabric's state")
    }

    /// Ends a use of a lease.
    pub(super) fn done_with(&self, using: Use) {
        let mut state = self.state();
        if let Some(token) = state.leases.done(using) {
            state.granted.remove(&token);
            self.events.push(Event::Freed(token));
        }
    }

    /// Ends a lease, whose bytes may be in use still: `true` then.
    pub(super) fn end_lease(&self, token: Token) -> bool {
        let mut state = self.state();
        let Some(granted) = state.granted.get_mut(&token).filter(|granted| !granted.ended) else {
            return false;
        };
        granted.ended = true;
        if !state.leases.revoke(token) {
            return true;
        }
        state.granted.remove(&token);
        self.events.push(Event::Freed(token));
        false
    }

    /// Lets go of everything: nothing is under way any more.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        for token in state.granted.drain().map(|(token, _)| token) {
            self.events.push(Event::Freed(token));
        }
        *state = State { closed: true, ..State::default() };
    }
}

impl State {
    /// # Errors
    /// [`Error::Closed`].
    pub(super) fn open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// # Errors
    /// As [`Fabric::grant`](crate::fabric::Fabric::grant).
    pub(super) fn grant(&mut self, lease: Lease) -> Result<(), Error> {
        self.open()?;
        for span in &lease.spans {
            self.registry.address(*span)?;
        }
        if self.granted.len() >= Limits::MAX_LEASES {
            return Err(Error::Full("leases at a time (64 Ki)"));
        }
        let (token, deadline) = (lease.token, lease.deadline);
        if !self.leases.grant(lease) {
            return Err(Error::TokenInUse);
        }
        self.granted.insert(token, Granted { deadline, ended: false });
        Ok(())
    }

    /// Whether the lease that now has this token has come to its time.
    pub(super) fn is_over(&self, token: Token, now: Instant) -> bool {
        self.granted.get(&token).is_some_and(|granted| granted.deadline <= now)
    }

    /// Whether a transfer or a lease names a region.
    pub(super) fn names(&self, region: RegionId) -> bool {
        self.uses.contains_key(&region) || self.leases.touches(region)
    }

    /// Counts a transfer that names these regions.
    pub(super) fn begin(&mut self, regions: &[RegionId]) {
        self.under_way += 1;
        for region in regions {
            *self.uses.entry(*region).or_default() += 1;
        }
    }

    /// It has ended.
    pub(super) fn end(&mut self, regions: &[RegionId]) {
        self.under_way -= 1;
        for region in regions {
            let left = self.uses.get_mut(region).expect("it was counted when the transfer began");
            *left -= 1;
            if *left == 0 {
                self.uses.remove(region);
            }
        }
    }

    pub(super) fn id_of(&self, identity: &Identity) -> Option<PeerId> {
        self.by_identity.get(identity).copied()
    }

    /// A number for a peer that has none.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(super) fn add_peer(&mut self, identity: Identity, named: bool) -> Result<PeerId, Error> {
        if self.peers.len() >= Limits::MAX_PEERS {
            return Err(Error::Full("peers at a time (4096)"));
        }
        let id = self.new_id()?;
        self.by_identity.insert(identity, id);
        self.peers.insert(id, Known { named, ..Known::default() });
        Ok(id)
    }

    /// A number that was not used before.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(super) fn new_id(&mut self) -> Result<PeerId, Error> {
        let id = PeerId(self.next_peer);
        self.next_peer = self.next_peer.checked_add(1).ok_or(Error::Full("peers of one epoch"))?;
        Ok(id)
    }

    pub(super) fn peer(&mut self, id: PeerId) -> Option<&mut Known> {
        self.peers.get_mut(&id)
    }

    /// A peer that can be used.
    ///
    /// # Errors
    /// [`Error::UnknownPeer`].
    pub(super) fn peer_in_use(&mut self, id: PeerId) -> Result<&mut Known, Error> {
        self.peers.get_mut(&id).filter(|peer| peer.lane.is_some()).ok_or(Error::UnknownPeer(id))
    }

    /// Nothing new begins with a peer; its identity may get another number.
    pub(super) fn remove_peer(&mut self, id: PeerId, identity: &Identity) -> Option<Known> {
        if self.by_identity.get(identity) == Some(&id) {
            self.by_identity.remove(identity);
        }
        self.peers.remove(&id)
    }

    /// How a peer is reached.
    pub(super) fn lane(&self, id: PeerId) -> Option<Lane> {
        self.peers.get(&id)?.lane.clone()
    }
}

/// The regions here that segments name, each once.
pub(super) fn regions(segments: &[Segment]) -> Vec<RegionId> {
    let (mut seen, mut last) = (HashSet::new(), None);
    let new = |region: &RegionId| last.replace(*region) != Some(*region) && seen.insert(*region);
    segments.iter().map(|segment| segment.local.region).filter(new).collect()
}
