//! What an agent, and a transfer, can be told.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvferry_transfer::fabric::{Backend, Fabric};
use kvferry_transfer::{AgentName, Epoch};
use rustls::pki_types::ServerName;

use crate::Error;
use crate::core::Pace;
use crate::limits::{MAX_ABOUT, MAX_CHECK_BYTES, MAX_FABRICS, MAX_PRIORITY, UNHEARD_BYTES_OF_ALL};

/// A fabric that the agent uses. Two agents talk over their first fabrics of a kind, over their second ones, and so on: the
/// rails of that kind.
#[derive(Clone)]
pub struct Carrier {
    /// What kind it is, by which the peer finds its own one: the backend's name, unless said otherwise.
    pub kind: Box<str>,
    /// Which lanes are preferred: 0 is best. By default, shm is 0, ucx and nixl are 1, tcp is 2.
    pub tier: u8,
    /// The same for a lane whose bytes turn out to go through sockets, or in a library's own messages
    /// ([`Copying`](kvferry_transfer::fabric::Copying)): 3 for ucx and nixl, behind tcp, which does that better.
    pub copied_tier: u8,
    /// The fabric. Its events belong to the agent from now on, and closing the agent closes it.
    pub fabric: Arc<dyn Fabric>,
}

impl Carrier {
    /// With the kind and tier of its backend.
    pub fn new(fabric: Arc<dyn Fabric>) -> Self {
        let backend = fabric.backend();
        let (tier, copied_tier) = match backend {
            Backend::Shm => (0, 0),
            Backend::Ucx | Backend::Nixl => (1, 3),
            Backend::Tcp => (2, 2),
        };
        Self { kind: backend.name().into(), tier, copied_tier, fabric }
    }

    /// Of another kind: for fabrics of one backend that cannot talk to each other, such as two of NIXL's plugins. At most 64
    /// bytes.
    #[must_use]
    pub fn of_kind(self, kind: &str) -> Self {
        Self { kind: kind.into(), ..self }
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("kind", &self.kind).field("tier", &self.tier).finish_non_exhaustive()
    }
}

/// Bytes that all agents of a deployment share. 16 random ones or more are worth something: whoever can connect may try to
/// guess a short one at leisure.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// These bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// TLS of the control connections. (A fabric's own encryption is the fabric's.)
#[derive(Debug, Clone)]
pub struct Tls {
    /// How this agent answers. Let it ask for a certificate if peers must show one.
    pub server: Arc<rustls::ServerConfig>,
    /// How it connects.
    pub client: Arc<rustls::ClientConfig>,
    /// Which name peers' certificates must have; `None`: the host that was connected to.
    pub peers_are: Option<ServerName<'static>>,
}

/// How an agent is opened. Begin with [`Options::new`] and change what differs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What peers call it; the same as its fabrics'.
    pub name: AgentName,
    /// This life of it; the same as its fabrics'.
    pub epoch: Epoch,
    /// Its fabrics, 1 to 16.
    pub carriers: Vec<Carrier>,
    /// Where it answers; `None`: nowhere, it only connects.
    pub listen: Option<SocketAddr>,
    /// If there is one, only agents that know it are talked to.
    pub secret: Option<Secret>,
    /// If there is, control connections are encrypted, and peers authenticated as its configurations say.
    pub tls: Option<Tls>,
    /// What every peer is told about this agent, in a form of the caller's own; at most 64 KiB.
    pub about: Bytes,
    /// How long a connection may take to be made; 10 ms to a minute.
    pub meet_within: Duration,
    /// How long a peer may be silent before it is lost; 100 ms to an hour. A quarter of it is how often something is said
    /// when there is nothing to say.
    pub silence: Duration,
    /// Bytes of events that may wait for the owner, of all peers; 1 MiB or more. Beyond half of it nobody else is met, and
    /// beyond all of it peers that send messages are lost, and no lease is granted. Dropping [`Events`](crate::Events) is
    /// saying that none are wanted: then nothing waits.
    pub unheard_bytes: u64,
    /// How much at a time, and how long.
    pub pace: Pace,
    /// Threads that compute checksums, 1 to 32. They run only while something is verified. One does 10 GB/s and more.
    pub check_threads: usize,
}

impl Options {
    /// The defaults: it only connects, and talks to whoever answers.
    pub fn new(name: AgentName, epoch: Epoch, carriers: Vec<Carrier>) -> Self {
        Self {
            name,
            epoch,
            carriers,
            listen: None,
            secret: None,
            tls: None,
            about: Bytes::new(),
            meet_within: Duration::from_secs(10),
            silence: Duration::from_secs(15),
            unheard_bytes: UNHEARD_BYTES_OF_ALL,
            pace: Pace::default(),
            check_threads: 1,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Options(what.into()));
        if !(1..=MAX_FABRICS).contains(&self.carriers.len()) {
            return refuse("use 1 to 16 fabrics");
        }
        if self.carriers.iter().any(|carrier| !(1..=64).contains(&carrier.kind.len())) {
            return refuse("name a kind of fabric in 1 to 64 bytes");
        }
        if self.about.len() > MAX_ABOUT {
            return refuse("say at most 64 KiB about the agent");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(60)).contains(&self.meet_within) {
            return refuse("let meeting take 10 ms to a minute");
        }
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.silence) {
            return refuse("bear silence for 100 ms to an hour");
        }
        if self.unheard_bytes < 1 << 20 {
            return refuse("let events of 1 MiB or more wait");
        }
        if !(1..=32).contains(&self.check_threads) {
            return refuse("compute checksums with 1 to 32 threads");
        }
        let pace = &self.pace;
        if pace.chunk_bytes == 0
            || pace.chunk_segments == 0
            || pace.lane_bytes == 0
            || pace.lane_chunks == 0
            || pace.chunks == 0
        {
            return refuse("let chunks and windows be more than nothing");
        }
        if pace.chunk_bytes > MAX_CHECK_BYTES {
            return refuse("use chunks of at most 64 MiB");
        }
        if pace.chunk_segments > crate::limits::CHUNK_SEGMENTS {
            return refuse("use at most 2048 segments for each chunk");
        }
        Ok(())
    }
}

/// How a transfer is to be done.
#[derive(Debug, Clone)]
pub struct TransferOptions {
    /// When to give up. Every transfer has a deadline, so that nothing can wait for ever.
    pub deadline: Instant,
    /// Its share of a lane beside others, 1 to 16.
    pub priority: u8,
    /// Whether both sides compute checksums of every segment, and bytes count only if they agree. Host memory only.
    pub verify: bool,
    /// A message for the peer once every byte is in place (and verified): its [`Event::Notified`](crate::Event::Notified).
    /// Writes and reads may have one; at most 64 KiB.
    pub notify: Option<Bytes>,
}

impl TransferOptions {
    /// To be done within that time.
    pub fn within(time: Duration) -> Self {
        let now = Instant::now();
        // A time that no clock can show is as good as a day.
        let deadline = now.checked_add(time).unwrap_or(now + Duration::from_secs(86_400));
        Self { deadline, priority: 1, verify: false, notify: None }
    }

    /// Verified.
    #[must_use]
    pub fn verified(self) -> Self {
        Self { verify: true, ..self }
    }

    /// With a message.
    #[must_use]
    pub fn notifying(self, message: impl Into<Bytes>) -> Self {
        Self { notify: Some(message.into()), ..self }
    }

    /// With a larger share; more than 16 is 16.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        Self { priority: priority.clamp(1, MAX_PRIORITY), ..self }
    }
}
