//! What the agent's owner hears, and from whom. Messages that nobody takes cannot fill this process' memory: each peer may
//! send so many ahead, and may send more once they are taken.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use kvferry_transfer::{AgentName, Epoch, Token};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::Error;
use crate::books::lock;
use crate::core::PeerNo;
use crate::limits::{UNHEARD_BYTES, UNHEARD_MESSAGES};
use crate::shell::Order;

/// What a message or another event weighs besides its bytes. Peers count as well, so it is part of the protocol.
const OVERHEAD: u64 = 64;

/// One life of a peer, as long as it is connected. Clones name the same.
#[derive(Clone)]
pub struct Peer(pub(crate) Arc<Of>);

pub(crate) struct Of {
    pub(crate) no: PeerNo,
    pub(crate) name: AgentName,
    pub(crate) epoch: Epoch,
    about: Bytes,
    /// Messages that it was sent and has not taken, and what they weigh.
    sent: Mutex<(u64, u64)>,
    /// Messages of it that wait here, and what they weigh.
    waiting: (AtomicU64, AtomicU64),
    /// Those that were taken, of which it has not been told.
    taken: Mutex<(u64, u64)>,
    /// Whether it is lost, or was told to go.
    pub(crate) gone: AtomicBool,
}

impl Peer {
    pub(crate) fn new(no: PeerNo, name: AgentName, epoch: Epoch, about: Bytes) -> Self {
        let (sent, taken) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Of {
            no,
            name,
            epoch,
            about,
            sent,
            waiting: Default::default(),
            taken,
            gone: AtomicBool::new(false),
        }))
    }

    /// What it is called.
    pub fn name(&self) -> &AgentName {
        &self.0.name
    }

    /// Which life of it this is.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// What its owner says about it ([`Options::about`](crate::Options::about)).
    pub fn about(&self) -> &Bytes {
        &self.0.about
    }
}

impl fmt::Debug for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.epoch)
    }
}

impl Of {
    /// Counts a message that is to be sent.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub(crate) fn reserve(&self, len: usize) -> Result<(), Error> {
        let mut sent = lock(&self.sent);
        let after = (sent.0 + 1, sent.1 + len as u64 + OVERHEAD);
        if after.0 > UNHEARD_MESSAGES || after.1 > UNHEARD_BYTES {
            return Err(Error::Full("messages that a peer has not taken (4096, or 4 MiB)"));
        }
        *sent = after;
        Ok(())
    }

    /// It was not sent after all.
    pub(crate) fn release(&self, len: usize) {
        self.heard(1, len as u64 + OVERHEAD);
    }

    /// The peer says that it has taken some.
    pub(crate) fn heard(&self, messages: u64, weight: u64) {
        let mut sent = lock(&self.sent);
        *sent = (sent.0.saturating_sub(messages), sent.1.saturating_sub(weight));
    }

    /// A message has come. `false` if the peer sends more than it may.
    pub(crate) fn received(&self, len: usize) -> bool {
        let weight = len as u64 + OVERHEAD;
        let messages = self.waiting.0.fetch_add(1, Ordering::Relaxed) + 1;
        let weight = self.waiting.1.fetch_add(weight, Ordering::Relaxed) + weight;
        messages <= UNHEARD_MESSAGES && weight <= UNHEARD_BYTES
    }

    /// A message was taken. `Some`: the peer should be told of so many by now. In quarters of what may wait, so that nobody
    /// stands still for want of being told.
    fn took(&self, len: usize) -> Option<(u64, u64)> {
        let weight = len as u64 + OVERHEAD;
        self.waiting.0.fetch_sub(1, Ordering::Relaxed);
        self.waiting.1.fetch_sub(weight, Ordering::Relaxed);
        let mut taken = lock(&self.taken);
        *taken = (taken.0 + 1, taken.1 + weight);
        let tell = taken.0 >= UNHEARD_MESSAGES / 4 || taken.1 >= UNHEARD_BYTES / 4;
        tell.then(|| std::mem::take(&mut *taken))
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({}@{})", self.0.name, self.0.epoch)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.0.name, self.0.epoch)
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Peer {}

/// What waits to be heard, of all peers: its bytes.
#[derive(Debug, Default)]
pub(crate) struct Unheard(AtomicU64);

impl Unheard {
    pub(crate) fn add(&self, weight: u64) {
        self.0.fetch_add(weight, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, weight: u64) {
        self.0.fetch_sub(weight, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer has been met, by whoever's wish.
    Connected(Peer),
    /// A peer says something: after every byte that it wrote before.
    Notified(Peer, Bytes),
    /// A peer is gone: everything with it has ended before. Another life of it is another peer.
    Lost(Peer, Error),
    /// Nothing of a lease's bytes is touched any more, by any fabric.
    Freed(Token),
}

impl Event {
    /// What it takes while it waits, roughly.
    pub(crate) fn weight(&self) -> u64 {
        let len = match self {
            Self::Connected(peer) | Self::Lost(peer, _) => peer.0.about.len(),
            Self::Notified(_, message) => message.len(),
            Self::Freed(_) => 0,
        };
        len as u64 + OVERHEAD
    }
}

/// The agent's events, in order. They wait here until they are taken, of each peer as many messages as it may send ahead, and
/// of all no more than [`Options::unheard_bytes`](crate::Options::unheard_bytes). Whoever wants none drops this.
#[derive(Debug)]
pub struct Events {
    pub(crate) queue: UnboundedReceiver<Event>,
    pub(crate) orders: UnboundedSender<Order>,
    pub(crate) unheard: Arc<Unheard>,
}

impl Drop for Events {
    fn drop(&mut self) {
        // What nobody hears any more does not wait.
        self.queue.close();
        while let Ok(event) = self.queue.try_recv() {
            self.unheard.take(event.weight());
        }
    }
}

impl Events {
    /// The next one; `None` once the agent is closed and all were taken.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.queue.recv().await;
        self.taken(event)
    }

    /// The next one, if there is one.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.queue.try_recv().ok();
        self.taken(event)
    }

    /// The next one, for callers that are no futures. It must not be called from one.
    pub fn blocking_next(&mut self) -> Option<Event> {
        let event = self.queue.blocking_recv();
        self.taken(event)
    }

    fn taken(&self, event: Option<Event>) -> Option<Event> {
        if let Some(event) = &event {
            self.unheard.take(event.weight());
        }
        if let Some(Event::Notified(peer, message)) = &event
            && let Some((messages, weight)) = peer.0.took(message.len())
        {
            // Nobody is there to tell once the agent is closed.
            self.orders.send(Order::Heard(peer.0.no, messages, weight)).ok();
        }
        event
    }
}
