//! What a fabric knows: peers, transfers, leases, and the events that wait. It does no I/O and has no clock; whoever calls
//! it holds its lock for as long as it takes to look something up, and afterwards sends out the [`Order`]s that came of it.

mod guests;
mod mail;
mod peers;
mod transfers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::book::{Book, InUse};
use super::numbers::ByNumber;
use super::orders::{Key, Order};
use crate::fabric::common::Identity;
use crate::fabric::{Event, Limits};
use crate::lease::{Access, Lease, Refused};
use crate::segment::Span;
use crate::{Error, PeerId, RegionId, Token, TransferId};

use guests::Guest;
use peers::Peer;
use transfers::Transfers;

pub(super) use transfers::{Chunk, Work};

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    book: Book,
    /// Those that this side connects to.
    peers: ByNumber<PeerId, Peer>,
    /// Those that have connected to this side.
    guests: HashMap<Arc<Identity>, Guest>,
    /// The number that a life has now, in whichever direction it is met.
    numbers: HashMap<Arc<Identity>, PeerId>,
    /// Those whose messages may wait to be polled, by all numbers they were known by.
    heard: HashMap<PeerId, Arc<Identity>>,
    transfers: Transfers,
    /// What has happened since it was last [taken](Self::take_events).
    events: Vec<Event>,
    orders: Vec<Order>,
    next_peer: u32,
    next_key: u64,
    threads: usize,
    /// Until when the clock's thread sleeps, if it does not wake for another reason.
    pub(super) asleep_until: Option<Instant>,
    closed: bool,
}

impl State {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            book: Book::default(),
            peers: ByNumber::default(),
            guests: HashMap::new(),
            numbers: HashMap::new(),
            heard: HashMap::new(),
            transfers: Transfers::default(),
            events: Vec::new(),
            orders: Vec::new(),
            next_peer: 0,
            next_key: 0,
            threads,
            asleep_until: None,
            closed: false,
        }
    }

    /// # Errors
    /// [`Error::Closed`].
    pub(super) fn open(&self) -> Result<(), Error> {
        if self.closed { Err(Error::Closed) } else { Ok(()) }
    }

    /// A number for a new stream, whose owners take turns.
    pub(super) fn new_key(&mut self) -> Key {
        let number = self.next_key;
        self.next_key += 1;
        let threads = u64::try_from(self.threads).unwrap_or(1);
        Key { owner: usize::try_from(number % threads).unwrap_or(0), number }
    }

    fn new_peer(&mut self) -> PeerId {
        let peer = PeerId(self.next_peer);
        self.next_peer = self.next_peer.checked_add(1).expect("four thousand million peers do not come");
        peer
    }

    /// What came of what was done: to be sent out once the lock is let go.
    pub(super) fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    pub(super) fn order(&mut self, order: Order) {
        self.orders.push(order);
    }

    fn event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// What has happened, in order: for the queue, before the lock is let go.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Whether one transfer is under way.
    pub(super) fn is_alone(&self) -> bool {
        self.transfers.is_one()
    }

    /// Whether nothing but short transfers is under way, and one at least.
    pub(super) fn is_brief(&self) -> bool {
        self.transfers.are_brief()
    }

    /// # Errors
    /// [`Error::Full`].
    pub(super) fn grant(&mut self, lease: Lease) -> Result<(), Error> {
        self.open()?;
        if self.book.len() >= Limits::MAX_LEASES {
            return Err(Error::Full("leases at a time (65,536)"));
        }
        let deadline = lease.deadline;
        if !self.book.grant(lease) {
            return Err(Error::TokenInUse);
        }
        self.look_by(deadline);
        Ok(())
    }

    pub(super) fn revoke(&mut self, token: Token, now: Instant) {
        if self.book.revoke(token, now) {
            self.event(Event::Freed(token));
        }
    }

    /// A peer wants to touch `spans`.
    ///
    /// # Errors
    /// If it must not.
    pub(super) fn begin_use(
        &mut self,
        token: Token,
        access: Access,
        spans: &[Span],
        now: Instant,
    ) -> Result<InUse, Refused> {
        self.book.begin(token, access, spans, now)
    }

    /// It touches them no more.
    pub(super) fn end_use(&mut self, used: InUse) {
        if let Some(free) = self.book.done(used) {
            self.event(Event::Freed(free));
        }
    }

    /// Leases that ended a while ago and are in use all the same.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Token> {
        self.book.overdue(now)
    }

    /// Whether a lease or a transfer names a region.
    pub(super) fn names(&self, region: RegionId) -> bool {
        self.book.touches(region) || self.transfers.names(region)
    }

    /// Ends what has come to its time.
    pub(super) fn expire(&mut self, now: Instant) {
        for token in self.book.expire(now) {
            self.event(Event::Freed(token));
        }
        for transfer in self.transfers.expired(now) {
            self.fail(transfer, Error::Deadline);
        }
    }

    /// When something comes to its time next.
    pub(super) fn alarm(&self) -> Option<Instant> {
        [self.book.next(), self.transfers.next_deadline()].into_iter().flatten().min()
    }

    fn look_by(&mut self, deadline: Instant) {
        if self.asleep_until.is_none_or(|until| deadline < until) {
            self.order(Order::Look);
        }
    }

    /// Nothing begins any more. What is under way ends as its streams are closed; see [`finish`](Self::finish).
    pub(super) fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closed, true)
    }

    /// All streams are closed: ends what is left.
    pub(super) fn finish(&mut self, now: Instant) {
        let mut peers: Vec<PeerId> = self.peers.keys().copied().collect();
        peers.sort_unstable();
        for peer in peers {
            self.forget(peer, Error::Closed);
        }
        for token in self.book.tokens() {
            self.revoke(token, now);
        }
        self.orders.clear();
    }

    fn fail(&mut self, transfer: TransferId, error: Error) {
        let Some(streams) = self.transfers.fail(transfer, error) else { return };
        if streams {
            let peer = self.transfers.peer(transfer).and_then(|peer| self.peers.get(&peer));
            let keys = peer.map(|peer| peer.streams().to_vec()).unwrap_or_default();
            self.orders.extend(keys.into_iter().map(|key| Order::Discard(key, transfer)));
        }
        self.conclude(transfer);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::metadata::Metadata;
    use super::*;
    use crate::fabric::{Direction, Request};
    use crate::{AgentName, Epoch, Place, Segment};

    const CHUNK: u64 = super::super::limits::CHUNK_BYTES;

    fn identity() -> Identity {
        Identity { name: AgentName::new("owner").unwrap(), epoch: Epoch(1) }
    }

    /// A state with one peer, and the streams to it, which are up.
    fn met() -> (State, PeerId, Vec<Key>) {
        let mut state = State::new(1);
        let addresses = vec!["127.0.0.1:1".parse().unwrap()];
        let peer =
            state.connect(Metadata { identity: identity(), addresses, regions: vec![] }, 2, 64).unwrap();
        let orders = state.take_orders().into_iter();
        let keys: Vec<Key> = orders
            .map(|order| match order {
                Order::Open { key, .. } => key,
                other => panic!("{other:?}"),
            })
            .collect();
        for _ in &keys {
            state.stream_up(peer, "lo".into(), false);
        }
        assert!(matches!(events(&mut state)[..], [Event::Connected(..)]));
        (state, peer, keys)
    }

    fn events(state: &mut State) -> Vec<Event> {
        state.take_events()
    }

    fn request(peer: PeerId, direction: Direction, len: u64, notify: Option<Bytes>) -> Request {
        let place = Place { region: RegionId(0), offset: 0 };
        let segments = [Segment { local: place, remote: place, len }].into();
        Request { peer, direction, token: Token([1; 16]), segments, notify, deadline: None, checksum: false }
    }

    fn chunk(state: &mut State, peer: PeerId, key: Key) -> Chunk {
        match state.next(peer, key) {
            Some(Work::Chunk(chunk)) => chunk,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_read_fails_only_when_no_stream_writes_to_its_places_any_more() {
        let (mut state, peer, keys) = met();
        let id =
            state.submit(request(peer, Direction::Read, 2 * CHUNK, None), false, Instant::now()).unwrap();
        chunk(&mut state, peer, keys[0]);
        chunk(&mut state, peer, keys[1]);
        assert!(state.chunk_lands(id), "the first arrives");
        state.take_orders();
        state.cancel(id);
        let told = state.take_orders();
        assert!(told.iter().all(|order| matches!(order, Order::Discard(_, transfer) if *transfer == id)));
        assert_eq!((told.len(), events(&mut state)), (2, vec![]));
        assert!(!state.chunk_lands(id), "the second is not wanted any more");
        state.chunk_dropped(id);
        assert_eq!(events(&mut state), [Event::Failed(id, Error::Cancelled)]);
        assert!(!state.names(RegionId(0)));
    }

    #[test]
    fn a_write_fails_only_when_all_that_was_sent_is_answered() {
        let (mut state, peer, keys) = met();
        let id =
            state.submit(request(peer, Direction::Write, 3 * CHUNK, None), false, Instant::now()).unwrap();
        chunk(&mut state, peer, keys[0]);
        chunk(&mut state, peer, keys[1]);
        state.chunk_ended(id, Err(Error::Refused(Refused::NoLease)));
        state.cancel(id);
        assert!(state.next(peer, keys[0]).is_none(), "nothing of it is begun any more");
        assert_eq!(events(&mut state), []);
        state.chunk_ended(id, Ok(()));
        assert_eq!(events(&mut state), [Event::Failed(id, Error::Refused(Refused::NoLease))]);
    }

    #[test]
    fn a_transfer_that_is_late_from_the_first_begins_nothing() {
        let (mut state, peer, keys) = met();
        let now = Instant::now();
        let late = Request { deadline: Some(now), ..request(peer, Direction::Write, CHUNK, None) };
        let id = state.submit(late, false, now).unwrap();
        assert!(state.next(peer, keys[0]).is_none());
        assert_eq!(events(&mut state), [Event::Failed(id, Error::Deadline)]);
    }

    #[test]
    fn a_message_rides_with_a_single_chunk_and_else_goes_after_the_last_and_ends_the_transfer() {
        let (mut state, peer, keys) = met();
        let message = Some(Bytes::from_static(b"done"));
        let one = state
            .submit(request(peer, Direction::Write, CHUNK, message.clone()), false, Instant::now())
            .unwrap();
        assert_eq!(chunk(&mut state, peer, keys[1]).message, message);
        state.chunk_ended(one, Ok(()));
        assert_eq!(events(&mut state), [Event::Done(one)]);
        let two = state
            .submit(request(peer, Direction::Write, 2 * CHUNK, message.clone()), false, Instant::now())
            .unwrap();
        for _ in 0..2 {
            assert_eq!(chunk(&mut state, peer, keys[1]).message, None);
        }
        state.chunk_ended(two, Ok(()));
        assert!(state.next(peer, keys[0]).is_none(), "not before the last byte");
        state.chunk_ended(two, Ok(()));
        assert!(state.next(peer, keys[1]).is_none(), "messages go over the first stream");
        assert!(
            matches!(state.next(peer, keys[0]), Some(Work::Mail(mail, Some(id))) if mail == "done" && id == two)
        );
        assert_eq!(events(&mut state), []);
        state.mail_taken(two);
        assert_eq!(events(&mut state), [Event::Done(two)]);
    }

    #[test]
    fn a_lost_peers_transfers_fail_once_all_its_streams_are_closed_and_then_it_is_lost() {
        let (mut state, peer, keys) = met();
        let ids = [0, 1].map(|_| {
            state.submit(request(peer, Direction::Read, CHUNK, None), false, Instant::now()).unwrap()
        });
        chunk(&mut state, peer, keys[1]);
        assert!(state.chunk_lands(ids[0]));
        let gone = Error::Lost("reset".into());
        state.stream_closed(peer, keys[0], gone.clone());
        assert_eq!(events(&mut state), [], "the other stream may still be writing");
        assert_eq!(
            state.submit(request(peer, Direction::Read, 1, None), false, Instant::now()),
            Err(Error::UnknownPeer(peer))
        );
        state.stream_closed(peer, keys[1], Error::Closed);
        let failed = |id| Event::Failed(id, gone.clone());
        assert_eq!(events(&mut state), [failed(ids[0]), failed(ids[1]), Event::Lost(peer, gone.clone())]);
    }

    #[test]
    fn a_transfer_that_fails_gives_back_the_room_of_its_message() {
        let (mut state, peer, _) = met();
        let long = Bytes::from(vec![0; 64 << 10]);
        for _ in 0..1000 {
            let id = state
                .submit(request(peer, Direction::Write, 2 * CHUNK, Some(long.clone())), false, Instant::now())
                .unwrap();
            state.cancel(id);
        }
        assert_eq!(events(&mut state).len(), 1000);
    }

    #[test]
    fn a_guest_that_is_met_in_turn_has_one_number_until_it_is_lost() {
        let mut state = State::new(1);
        let (guest, key) = (Arc::new(identity()), Key { owner: 0, number: 9 });
        assert!(state.guest_in(&guest, key));
        state.notified(&guest, Bytes::from_static(b"hello")).unwrap();
        let heard = events(&mut state);
        let addresses = vec!["127.0.0.1:1".parse().unwrap()];
        let peer =
            state.connect(Metadata { identity: identity(), addresses, regions: vec![] }, 1, 64).unwrap();
        assert_eq!(heard, [Event::Notified(peer, "hello".into())]);
        state.disconnect(peer);
        let closed =
            state.take_orders().into_iter().filter(|order| matches!(order, Order::Close(..))).count();
        assert_eq!(closed, 2, "both directions");
        state.stream_closed(peer, Key { owner: 0, number: 0 }, Error::Closed);
        assert_eq!(events(&mut state), [], "it may still touch what it has leases for");
        state.guest_out(&guest, key, Error::Cancelled);
        assert_eq!(events(&mut state), [Event::Lost(peer, Error::Cancelled)]);
    }
}
