//! The agent, as its owner uses it. Everything here returns at once; what takes time is a future.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use kvferry_transfer::fabric::Direction;
use kvferry_transfer::memory::Region;
use kvferry_transfer::{Access, AgentName, Epoch, Lease, RegionId, Segment, Span, Token};
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::books::{Grants, Regions, lock};
use crate::events::{Events, Peer, Unheard};
use crate::limits::{MAX_MESSAGE, MAX_SEGMENTS, MAX_TRANSFERS, MAX_WISHES};
use crate::options::{Carrier, Options, TransferOptions};
use crate::shell::{self, Ask, Order};
use crate::snapshot::Snapshot;
use crate::transfer::{Answer, Transfer, nothing};

/// What callers and the agent's thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) carriers: Box<[Carrier]>,
    pub(crate) regions: Mutex<Regions>,
    pub(crate) grants: Mutex<Grants>,
    pub(crate) orders: mpsc::UnboundedSender<Order>,
    /// Transfers that have not ended.
    pub(crate) transfers: AtomicUsize,
    /// How often the agent's thread has woken up.
    pub(crate) wakeups: AtomicU64,
    /// Events that wait.
    pub(crate) unheard: Arc<Unheard>,
    /// How much may.
    pub(crate) unheard_most: u64,
    /// Connections and snapshots that are wanted and have not been looked at.
    pub(crate) wishes: AtomicUsize,
    /// Whether peers are about to be told of regions.
    pub(crate) tables: AtomicBool,
    closed: AtomicBool,
}

/// See the [crate]. Dropping it closes it.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<Shared>,
    listening: Option<std::net::SocketAddr>,
    next_ticket: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Agent {
    /// Opens it: listens, and starts its thread.
    ///
    /// # Errors
    /// [`Error::Options`], or [`Error::System`].
    pub fn open(options: Options) -> Result<(Self, Events), Error> {
        options.check()?;
        let (orders, inbox) = mpsc::unbounded_channel();
        let (told, queue) = mpsc::unbounded_channel();
        let unheard = Arc::<Unheard>::default();
        let shared = Arc::new(Shared {
            carriers: options.carriers.clone().into(),
            regions: Mutex::default(),
            grants: Mutex::default(),
            orders: orders.clone(),
            transfers: AtomicUsize::new(0),
            wakeups: AtomicU64::new(0),
            unheard: Arc::clone(&unheard),
            unheard_most: options.unheard_bytes,
            wishes: AtomicUsize::new(0),
            tables: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let (listening, thread) = shell::start(options, Arc::clone(&shared), inbox, told)?;
        let agent =
            Self { shared, listening, next_ticket: AtomicU64::new(0), thread: Mutex::new(Some(thread)) };
        Ok((agent, Events { queue, orders, unheard }))
    }

    /// Where it answers, with the port it got.
    pub fn listening(&self) -> Option<std::net::SocketAddr> {
        self.listening
    }

    /// Makes memory known to all fabrics that can reach it, and tells peers. The number is the agent's: segments and leases
    /// name it, here and at peers.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Closed`], or what a fabric says.
    pub fn register(&self, region: Region) -> Result<RegionId, Error> {
        self.check_open()?;
        let id = lock(&self.shared.regions).add(&self.shared.carriers, region)?;
        self.order_tables()?;
        Ok(id)
    }

    /// Forgets memory.
    ///
    /// # Errors
    /// [`RegionBusy`](kvferry_transfer::Error::RegionBusy) while transfers or leases name it;
    /// [`UnknownRegion`](kvferry_transfer::Error::UnknownRegion).
    pub fn deregister(&self, region: RegionId) -> Result<(), Error> {
        let mut regions = lock(&self.shared.regions);
        if lock(&self.shared.grants).names(region) {
            return Err(kvferry_transfer::Error::RegionBusy(region).into());
        }
        regions.remove(&self.shared.carriers, region)?;
        self.order_tables()
    }

    /// Goes to meet the agent that answers at `address` (`host:port`), and, if it is `expected`, takes it as a peer. It is one
    /// already if it has connected to this agent.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Foreign`], [`Error::Version`], [`Error::Unauthenticated`], [`Error::Tls`],
    /// [`Error::NameClash`], [`Error::SelfConnect`], [`Error::WrongPeer`], [`Error::StaleEpoch`], [`Error::NoLane`],
    /// [`Error::TurnedAway`], [`Error::Full`], [`Error::Closed`].
    pub fn connect(
        &self,
        address: &str,
        expected: Option<(AgentName, Option<Epoch>)>,
    ) -> impl Future<Output = Result<Peer, Error>> + Send + use<> {
        let (answer, met) = oneshot::channel();
        let sent = self.wish(Order::Connect { address: address.to_owned(), expected, answer });
        async move {
            sent?;
            met.await.unwrap_or(Err(Error::Closed))
        }
    }

    /// Parts from a peer: all that is under way with it fails, and [`Event::Lost`](crate::Event::Lost) follows.
    pub fn disconnect(&self, peer: &Peer) {
        // Nobody is connected once it is closed.
        if !peer.0.gone.swap(true, Ordering::Relaxed) {
            self.order(Order::Disconnect(peer.0.no)).ok();
        }
    }

    /// Allows whoever knows the token that is returned to reach bytes of this side, over any fabric.
    ///
    /// # Errors
    /// Ranges that are not registered, [`Error::NoLane`], [`Error::Full`], or what a fabric says.
    pub fn grant(&self, access: Access, spans: Vec<Span>, deadline: Instant) -> Result<Token, Error> {
        self.check_open()?;
        if self.shared.unheard.bytes() >= self.shared.unheard_most {
            return Err(Error::Full("events that wait for this agent's owner (take them, or drop `Events`)"));
        }
        let mut token = Token([0; 16]);
        random(&mut token.0)?;
        let regions = lock(&self.shared.regions);
        let lease = Lease { token, access, spans, deadline };
        lock(&self.shared.grants).grant(&self.shared.carriers, &regions, lease)?;
        Ok(token)
    }

    /// Ends a lease. [`Event::Freed`](crate::Event::Freed) says when nothing touches its bytes any more.
    pub fn revoke(&self, token: Token) {
        lock(&self.shared.grants).revoke(&self.shared.carriers, token);
    }

    /// Reads from a peer. Segments name the peer's regions by the numbers that its agent gave them.
    pub fn read(
        &self,
        peer: &Peer,
        token: Token,
        segments: impl Into<Arc<[Segment]>>,
        options: TransferOptions,
    ) -> Transfer {
        self.begin(peer, Direction::Read, token, segments.into(), options)
    }

    /// Writes to a peer.
    pub fn write(
        &self,
        peer: &Peer,
        token: Token,
        segments: impl Into<Arc<[Segment]>>,
        options: TransferOptions,
    ) -> Transfer {
        self.begin(peer, Direction::Write, token, segments.into(), options)
    }

    fn begin(
        &self,
        peer: &Peer,
        direction: Direction,
        token: Token,
        segments: Arc<[Segment]>,
        options: TransferOptions,
    ) -> Transfer {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (answer, result) = oneshot::channel();
        let transfer = Transfer::new(ticket, result, self.shared.orders.clone());
        let refuse = |answer: Answer, error| drop(answer.send(Err(Box::new(nothing(error)))));
        let admitted = self.admit(peer, &segments, options.notify.as_ref());
        let ask = Ask { ticket, peer: Arc::clone(&peer.0), direction, token, segments, options };
        match admitted {
            Ok(()) => {
                if let Err(mpsc::error::SendError(Order::Begin(_, answer))) =
                    self.shared.orders.send(Order::Begin(Box::new(ask), answer))
                {
                    self.shared.transfers.fetch_sub(1, Ordering::Relaxed);
                    refuse(answer, Error::Closed);
                }
            }
            Err(error) => refuse(answer, error),
        }
        transfer
    }

    /// Counts a transfer that is to begin, and its message.
    fn admit(&self, peer: &Peer, segments: &[Segment], notify: Option<&Bytes>) -> Result<(), Error> {
        if segments.len() > MAX_SEGMENTS / 4 {
            return Err(Error::Full("segments of one transfer (2 Mi)"));
        }
        if notify.is_some_and(|message| message.len() > MAX_MESSAGE) {
            return Err(Error::Full("bytes of a message (64 KiB)"));
        }
        if self.shared.transfers.fetch_add(1, Ordering::Relaxed) >= MAX_TRANSFERS {
            self.shared.transfers.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Full("transfers at a time (16 Ki)"));
        }
        let reserved = notify.map_or(Ok(()), |message| peer.0.reserve(message.len()));
        if reserved.is_err() {
            self.shared.transfers.fetch_sub(1, Ordering::Relaxed);
        }
        reserved
    }

    /// Says something to a peer, after all that was written to it by transfers that have ended. At most 64 KiB.
    ///
    /// # Errors
    /// [`Error::Full`] if the peer's owner takes nothing, [`Error::UnknownPeer`] once it is lost, [`Error::Closed`].
    pub fn notify(&self, peer: &Peer, message: Bytes) -> Result<(), Error> {
        if message.len() > MAX_MESSAGE {
            return Err(Error::Full("bytes of a message (64 KiB)"));
        }
        if peer.0.gone.load(Ordering::Relaxed) {
            return Err(Error::UnknownPeer(peer.to_string()));
        }
        peer.0.reserve(message.len())?;
        self.order(Order::Notify(peer.0.no, message))
    }

    /// How it does. `None` once it is closed, or if 4096 wait for that already.
    pub fn snapshot(&self) -> impl Future<Output = Option<Snapshot>> + Send + use<> {
        let (answer, taken) = oneshot::channel();
        let sent = self.wish(Order::Snapshot(answer));
        async move {
            sent.ok()?;
            taken.await.ok()
        }
    }

    /// Ends everything, and closes the fabrics: transfers fail with [`Error::Closed`], and peers are told.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        // It fails if it is closed already.
        self.order(Order::Close).ok();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            debug_assert!(false, "the agent's thread has panicked");
        }
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.shared.closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Has peers told of regions, unless that is about to happen anyway.
    fn order_tables(&self) -> Result<(), Error> {
        if self.shared.tables.swap(true, Ordering::SeqCst) { Ok(()) } else { self.order(Order::Tables) }
    }

    /// An order that nothing else bounds.
    fn wish(&self, order: Order) -> Result<(), Error> {
        if self.shared.wishes.fetch_add(1, Ordering::Relaxed) >= MAX_WISHES {
            self.shared.wishes.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Full("connections and snapshots wanted at a time (4096)"));
        }
        self.order(order)
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        self.shared.orders.send(order).map_err(|_| Error::Closed)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.close();
    }
}

/// Fills it with what nobody can guess.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), Error> {
    getrandom::fill(bytes).map_err(|error| Error::System("random numbers", error.to_string()))
}
