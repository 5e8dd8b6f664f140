//! Peers that this side connects to, from the first stream's begin to the last one's end.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::super::metadata::Metadata;
use super::super::orders::{Key, Order};
use super::super::turns::Turns;
use super::State;
use super::mail::Mailbox;
use crate::fabric::common::Identity;
use crate::fabric::{Copying, Event, Lane, Limits};
use crate::{Error, PeerId, RegionId, TransferId};

#[derive(Debug)]
pub(super) struct Peer {
    life: Arc<Identity>,
    regions: Arc<HashMap<RegionId, u64>>,
    /// Those that are not closed, in the order they were opened. Messages go over the first.
    streams: Vec<Key>,
    /// How many of them are not usable yet.
    missing: usize,
    devices: BTreeSet<String>,
    lane: Option<Lane>,
    pub(super) turns: Turns<TransferId>,
    pub(super) transfers: HashSet<TransferId>,
    pub(super) mailbox: Mailbox,
    /// Streams that have room and found nothing to begin.
    hungry: VecDeque<Key>,
    /// Why it is lost, once it is; its streams are being closed.
    ending: Option<Error>,
    /// Streams by which it is a guest, and that are closed because this side parts from it: until they are, it may still
    /// touch what it has leases for.
    leaving: HashSet<Key>,
}

impl Peer {
    pub(super) fn streams(&self) -> &[Key] {
        &self.streams
    }

    pub(super) fn control(&self) -> Option<Key> {
        self.streams.first().copied()
    }

    pub(super) fn up(&self) -> bool {
        self.missing == 0
    }

    pub(super) fn ending(&self) -> bool {
        self.ending.is_some()
    }

    pub(super) fn hungers(&mut self, key: Key) {
        if !self.hungry.contains(&key) {
            self.hungry.push_back(key);
        }
    }

    /// Streams to feed: all that have room, or one.
    pub(super) fn wake(&mut self, all: bool) -> Vec<Key> {
        let count = if all { self.hungry.len() } else { self.hungry.len().min(1) };
        self.hungry.drain(..count).collect()
    }
}

impl State {
    /// The number of the life that `metadata` speaks of, to which `streams` streams go over each of its rails.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Full`].
    pub(in super::super) fn connect(
        &mut self,
        metadata: Metadata,
        streams: usize,
        most: usize,
    ) -> Result<PeerId, Error> {
        self.open()?;
        let Metadata { identity, addresses, regions } = metadata;
        let life = Arc::new(identity);
        let regions: Arc<HashMap<RegionId, u64>> = Arc::new(regions.into_iter().collect());
        if let Some(id) = self.numbers.get(&life)
            && let Some(peer) = self.peers.get_mut(id)
        {
            peer.regions = regions;
            return Ok(*id);
        }
        if self.peers.len() >= Limits::MAX_PEERS {
            return Err(Error::Full("peers at a time (4096)"));
        }
        let id = self.number_of(&life);
        let count = (streams * addresses.len()).min(most);
        let keys: Vec<Key> = (0..count).map(|_| self.new_key()).collect();
        for (key, address) in keys.iter().zip(addresses.iter().cycle()) {
            self.order(Order::Open { key: *key, peer: id, to: Identity::clone(&life), address: *address });
        }
        let peer = Peer {
            life,
            regions,
            missing: keys.len(),
            streams: keys,
            devices: BTreeSet::new(),
            lane: None,
            turns: Turns::default(),
            transfers: HashSet::new(),
            mailbox: Mailbox::default(),
            hungry: VecDeque::new(),
            ending: None,
            leaving: HashSet::new(),
        };
        self.peers.insert(id, peer);
        Ok(id)
    }

    /// The number that a life has now, or gets now.
    pub(super) fn number_of(&mut self, life: &Arc<Identity>) -> PeerId {
        if let Some(id) = self.numbers.get(life) {
            return *id;
        }
        let id = self.new_peer();
        self.numbers.insert(Arc::clone(life), id);
        id
    }

    /// A peer's regions, as last heard.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::UnknownPeer`].
    pub(in super::super) fn regions_of(&self, peer: PeerId) -> Result<Arc<HashMap<RegionId, u64>>, Error> {
        self.open()?;
        let known = self.peers.get(&peer).filter(|peer| !peer.ending());
        known.map(|peer| Arc::clone(&peer.regions)).ok_or(Error::UnknownPeer(peer))
    }

    pub(in super::super) fn lane(&self, peer: PeerId) -> Option<Lane> {
        self.peers.get(&peer).filter(|peer| !peer.ending()).and_then(|peer| peer.lane.clone())
    }

    /// A stream to a peer, over `device`, can be used. All are encrypted or none is.
    pub(in super::super) fn stream_up(&mut self, id: PeerId, device: String, encrypted: bool) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.ending()) else { return };
        peer.missing -= 1;
        peer.devices.insert(device);
        if peer.missing > 0 {
            return;
        }
        let devices: Vec<&str> = peer.devices.iter().map(String::as_str).collect();
        let device = devices.join("+");
        let lane = Lane { transport: "tcp".into(), device, copying: Copying::Socket, encrypted };
        peer.lane = Some(lane.clone());
        self.orders.extend(peer.streams.iter().copied().map(Order::Feed));
        self.event(Event::Connected(id, lane));
    }

    /// A stream to a peer is closed, and with it the others will be.
    pub(in super::super) fn stream_closed(&mut self, id: PeerId, key: Key, error: Error) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.streams.retain(|open| *open != key);
        self.lose(id, error);
    }

    /// Parts from a peer, in both directions.
    pub(in super::super) fn disconnect(&mut self, id: PeerId) {
        let leaving = self.dismiss(id);
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| !peer.ending()) {
            peer.leaving = leaving;
            self.lose(id, Error::Cancelled);
        }
    }

    /// A guest's stream is closed, for which somebody may have waited.
    pub(super) fn has_left(&mut self, key: Key) {
        let left = self.peers.iter_mut().find_map(|(id, peer)| peer.leaving.remove(&key).then_some(*id));
        if let Some(id) = left {
            self.lose(id, Error::Cancelled);
        }
    }

    fn lose(&mut self, id: PeerId, error: Error) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.ending.is_none() {
            peer.ending = Some(error.clone());
            self.orders.extend(peer.streams.iter().map(|key| Order::Close(*key, error.clone())));
        }
        if peer.streams.is_empty() && peer.leaving.is_empty() {
            let error = peer.ending.clone().unwrap_or(error);
            self.forget(id, error);
        }
    }

    /// Nothing touches the places of its transfers any more: says how they ended, and that it is lost.
    pub(super) fn forget(&mut self, id: PeerId, error: Error) {
        let Some(peer) = self.peers.get(&id) else { return };
        let mut transfers: Vec<TransferId> = peer.transfers.iter().copied().collect();
        transfers.sort_unstable();
        for transfer in transfers {
            self.end_lost(transfer, &error);
        }
        if let Some(peer) = self.peers.remove(&id) {
            // If it is a guest as well, it will be known by another number.
            self.numbers.remove(&peer.life);
        }
        self.event(Event::Lost(id, error));
    }
}
