//! What callers and a progress thread both know of a fabric whose owners agree to transfers before they move: regions and
//! who names them, leases and who uses them, peers by number. Behind one lock, held only to look something up.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::EventQueue;
use crate::fabric::{Event, Lane, Limits};
use crate::lease::{Lease, Leases, Use};
use crate::memory::Registry;
use crate::{Error, PeerId, RegionId, Segment, Token};

/// See the module.
#[derive(Debug)]
pub(crate) struct Ledger {
    pages: Mutex<Pages>,
    pub(crate) events: EventQueue,
}

/// What is behind the lock.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(crate) registry: Registry,
    /// How many transfers of this side name a region.
    uses: HashMap<RegionId, usize>,
    pub(crate) leases: Leases,
    granted: HashMap<Token, Granted>,
    peers: HashMap<PeerId, Known>,
    pub(crate) under_way: usize,
    pub(crate) next_transfer: u64,
    pub(crate) closed: bool,
}

/// A lease that has not been freed.
#[derive(Debug)]
struct Granted {
    deadline: Instant,
    ended: bool,
}

/// A peer that is not lost.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Once it can be used.
    pub(crate) lane: Option<Lane>,
    /// Whether a caller has its number, and must hear of its end.
    pub(crate) named: bool,
    /// What the messages weigh that it has not polled.
    pub(crate) unpolled: usize,
}

impl Ledger {
    /// # Errors
    /// If the process can have no more descriptors.
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Self { pages: Mutex::default(), events: EventQueue::new()? })
    }

    pub(crate) fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().expect("nothing panics while it holds the ledger")
    }

    /// Ends a use of a lease.
    pub(crate) fn done_with(&self, using: Use) {
        let mut pages = self.pages();
        if let Some(token) = pages.leases.done(using) {
            pages.granted.remove(&token);
            self.events.push(Event::Freed(token));
        }
    }

    /// Ends a lease, whose bytes may be in use still: `true` then.
    pub(crate) fn end_lease(&self, token: Token) -> bool {
        let mut pages = self.pages();
        let Some(granted) = pages.granted.get_mut(&token).filter(|granted| !granted.ended) else {
            return false;
        };
        granted.ended = true;
        if !pages.leases.revoke(token) {
            return true;
        }
        pages.granted.remove(&token);
        self.events.push(Event::Freed(token));
        false
    }

    /// Lets go of everything: nothing is under way any more.
    pub(crate) fn clear(&self) {
        let mut pages = self.pages();
        for token in pages.granted.drain().map(|(token, _)| token) {
            self.events.push(Event::Freed(token));
        }
        *pages = Pages { closed: true, ..Pages::default() };
    }
}

impl Pages {
    /// # Errors
    /// [`Error::Closed`].
    pub(crate) fn open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// # Errors
    /// As [`Fabric::grant`](crate::fabric::Fabric::grant).
    pub(crate) fn grant(&mut self, lease: Lease) -> Result<(), Error> {
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
    pub(crate) fn is_over(&self, token: Token, now: Instant) -> bool {
        self.granted.get(&token).is_some_and(|granted| granted.deadline <= now)
    }

    /// Whether a transfer or a lease names a region.
    pub(crate) fn names(&self, region: RegionId) -> bool {
        self.uses.contains_key(&region) || self.leases.touches(region)
    }

    /// Counts a transfer that names these regions.
    pub(crate) fn begin(&mut self, regions: &[RegionId]) {
        self.under_way += 1;
        for region in regions {
            *self.uses.entry(*region).or_default() += 1;
        }
    }

    /// It has ended.
    pub(crate) fn end(&mut self, regions: &[RegionId]) {
        self.under_way -= 1;
        for region in regions {
            let left = self.uses.get_mut(region).expect("it was counted when the transfer began");
            *left -= 1;
            if *left == 0 {
                self.uses.remove(region);
            }
        }
    }

    pub(crate) fn peer(&mut self, id: PeerId) -> Option<&mut Known> {
        self.peers.get_mut(&id)
    }

    /// The peer of that number, known from now on.
    pub(crate) fn know(&mut self, id: PeerId) -> &mut Known {
        self.peers.entry(id).or_default()
    }

    /// A peer that can be used.
    ///
    /// # Errors
    /// [`Error::UnknownPeer`].
    pub(crate) fn peer_in_use(&mut self, id: PeerId) -> Result<&mut Known, Error> {
        self.peers.get_mut(&id).filter(|peer| peer.lane.is_some()).ok_or(Error::UnknownPeer(id))
    }

    /// Nothing new begins with a peer.
    pub(crate) fn remove_peer(&mut self, id: PeerId) -> Option<Known> {
        self.peers.remove(&id)
    }

    /// How a peer is reached.
    pub(crate) fn lane(&self, id: PeerId) -> Option<Lane> {
        self.peers.get(&id)?.lane.clone()
    }
}

/// The regions here that segments name, each once.
pub(crate) fn regions(segments: &[Segment]) -> Vec<RegionId> {
    let (mut seen, mut last) = (HashSet::new(), None);
    let new = |region: &RegionId| last.replace(*region) != Some(*region) && seen.insert(*region);
    segments.iter().map(|segment| segment.local.region).filter(new).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use super::*;
    use crate::memory::Arena;
    use crate::{Access, Span};

    const TOKEN: Token = Token([7; 16]);

    fn ledger() -> (Ledger, RegionId) {
        let ledger = Ledger::new().unwrap();
        let region = Arena::create("ledger", NonZeroUsize::new(4096).unwrap()).unwrap();
        let id = ledger.pages().registry.add(region).unwrap();
        (ledger, id)
    }

    fn lease(region: RegionId) -> Lease {
        let deadline = Instant::now() + Duration::from_secs(60);
        Lease { token: TOKEN, access: Access::Read, spans: vec![Span::new(region, 0, 4096)], deadline }
    }

    fn freed(ledger: &Ledger) -> usize {
        let mut events = Vec::new();
        ledger.events.drain(&mut events);
        events.iter().filter(|event| **event == Event::Freed(TOKEN)).count()
    }

    #[test]
    fn a_lease_in_use_is_freed_once_and_after_its_last_use() {
        let (ledger, region) = ledger();
        ledger.pages().grant(lease(region)).unwrap();
        let using = ledger
            .pages()
            .leases
            .begin(TOKEN, Access::Read, [Span::new(region, 0, 1)], Instant::now())
            .unwrap();
        assert!(ledger.end_lease(TOKEN) && !ledger.end_lease(TOKEN), "it is told once to stop");
        assert_eq!(freed(&ledger), 0);
        ledger.done_with(using);
        assert_eq!(freed(&ledger), 1);
        assert!(ledger.pages().grant(lease(region)).is_ok(), "its token may be used again");
    }

    #[test]
    fn a_region_is_named_by_transfers_and_leases_until_the_last_has_ended() {
        let (ledger, region) = ledger();
        let mut pages = ledger.pages();
        pages.begin(&[region]);
        pages.begin(&[region]);
        pages.end(&[region]);
        assert!(pages.names(region));
        pages.end(&[region]);
        assert!(!pages.names(region));
        pages.grant(lease(region)).unwrap();
        assert!(pages.names(region));
    }

    #[test]
    fn clearing_frees_what_was_granted() {
        let (ledger, region) = ledger();
        ledger.pages().grant(lease(region)).unwrap();
        ledger.clear();
        assert_eq!((freed(&ledger), ledger.pages().open()), (1, Err(Error::Closed)));
    }
}
