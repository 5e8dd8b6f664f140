//! One connection, from its first byte to its last. Its progress thread calls [`Stream::work`] while there is something
//! to receive or to send; what it learns goes to the [`State`](super::state::State).
//!
//! Receiving never waits for sending: both directions of a socket can be full, and two sides that write to each other
//! still empty each other's buffers.

mod asks;
mod greet;
mod outbox;
mod receive;
mod serves;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::book::InUse;
use super::inbuf::InBuf;
use super::limits::{HELLO_WITHIN, PINGS_PER_SILENCE, TICK, TURN_BYTES};
use super::orders::Key;
use super::shared::Shared;
use super::socket::Socket;
use super::tls::TlsProblem;
use super::wire::{Head, Kind, Violation};
use crate::fabric::common::Identity;
use crate::{Error, PeerId, Token, TransferId};

use asks::Initiator;
use greet::Greeting;
use outbox::Outbox;
use receive::Receiving;
use serves::Owner;

/// See the module.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about a socket, and they come in any mixture"
)]
pub(super) struct Stream {
    key: Key,
    socket: Socket,
    greeting: Greeting,
    role: Role,
    inbuf: InBuf,
    receiving: Receiving,
    outbox: Outbox,
    readable: bool,
    writable: bool,
    /// The peer will send no more: what it has sent is read to the end.
    hung_up: bool,
    /// To be closed once all is sent, for this reason.
    closing: Option<Error>,
    born: Instant,
    /// When the peer was last known to get on.
    heard: Instant,
    pinged: Option<Instant>,
    /// Whether its progress thread has it in line.
    pub(super) in_line: bool,
}

/// Whose memory this stream is about.
#[derive(Debug)]
enum Role {
    /// The peer's: this side asks.
    Initiator(Initiator),
    /// Ours: this side serves.
    Owner(Owner),
}

/// What a stream works with.
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    pub(super) now: Instant,
    /// For what is thrown away.
    pub(super) scratch: &'a mut [u8],
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Lost(format!("the peer does not keep to the protocol: {}", violation.0))
    }
}

fn broken(error: &io::Error) -> Error {
    if let Some(problem) = error.get_ref().and_then(|error| error.downcast_ref::<TlsProblem>()) {
        return Error::Tls(problem.clone());
    }
    Error::Lost(format!("the connection broke: {error}"))
}

impl Stream {
    /// Begins a stream to a peer.
    ///
    /// # Errors
    /// [`Error::Lost`] if there is no way at all.
    pub(super) fn dial(
        key: Key,
        peer: PeerId,
        to: Identity,
        address: SocketAddr,
        cx: &Context<'_>,
    ) -> Result<Self, Error> {
        let socket = Socket::connect(address, cx.shared.options.silence)
            .map_err(|error| Error::Lost(format!("cannot connect to {address}: {error}")))?;
        let initiator = Initiator::new(peer, cx.shared.options.window);
        Ok(Self::new(key, socket, Greeting::Dialing { to, address }, Role::Initiator(initiator), cx.now))
    }

    /// Serves a connection that has come in.
    ///
    /// # Errors
    /// [`Error::Tls`] if it is to be encrypted and cannot be.
    pub(super) fn adopt(key: Key, mut socket: Socket, cx: &Context<'_>) -> Result<Self, Error> {
        if let Some(tls) = &cx.shared.options.tls {
            socket.encrypt_for_guest(tls).map_err(Error::Tls)?;
        }
        Ok(Self::new(key, socket, Greeting::Stranger, Role::Owner(Owner::default()), cx.now))
    }

    fn new(key: Key, socket: Socket, greeting: Greeting, role: Role, now: Instant) -> Self {
        Self {
            key,
            socket,
            greeting,
            role,
            inbuf: InBuf::lasting(),
            receiving: Receiving::Frame,
            outbox: Outbox::default(),
            readable: false,
            writable: false,
            hung_up: false,
            closing: None,
            born: now,
            heard: now,
            pinged: None,
            in_line: false,
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether nobody knows yet who it is.
    pub(super) fn is_stranger(&self) -> bool {
        matches!(self.role, Role::Owner(_)) && !matches!(self.greeting, Greeting::Over)
    }

    /// The system says what is possible now.
    pub(super) fn ready(&mut self, readable: bool, writable: bool, hung_up: bool, now: Instant) {
        // Writable again after it was not: the peer has taken something.
        if readable || (writable && !self.writable) {
            self.heard = now;
        }
        self.readable |= readable;
        self.writable |= writable;
        self.hung_up |= hung_up;
    }

    /// Does what can be done, within its turn. Whether there is more to do right away.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub(super) fn work(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        self.dialed(cx)?;
        self.receive(cx)?;
        let mut room = TURN_BYTES;
        loop {
            self.fill(cx)?;
            if !self.writable || !self.has_words() || room == 0 {
                break;
            }
            let sent = self.outbox.send(&mut self.socket).map_err(|error| broken(&error))?;
            self.writable = !sent.blocked;
            room = room.saturating_sub(sent.bytes.max(1));
            end_uses(cx.shared, sent.ended);
        }
        if self.outbox.is_empty()
            && !self.socket.has_unsent()
            && let Some(why) = self.closing.take()
        {
            return Err(why);
        }
        Ok(self.readable || (self.writable && self.has_words()))
    }

    /// Puts into the outbox what may be begun.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        if !matches!(self.greeting, Greeting::Over) {
            return Ok(());
        }
        match &mut self.role {
            Role::Initiator(initiator) => initiator.feed(self.key, &mut self.outbox, cx)?,
            Role::Owner(owner) => owner.serve(&mut self.outbox, cx)?,
        }
        Ok(())
    }

    /// Looks at the clock: whether the peer has been silent for too long, or to ask whether it is there.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        let since = |then: Instant| cx.now.saturating_duration_since(then);
        if since(self.heard) >= TICK {
            self.socket.rest();
            self.inbuf.rest();
        }
        let options = &cx.shared.options;
        if !matches!(self.greeting, Greeting::Over) {
            let within =
                if self.is_stranger() { HELLO_WITHIN } else { options.connect_within.min(options.silence) };
            return if since(self.born) < within {
                Ok(())
            } else {
                Err(Error::Lost(format!("no answer within {within:?}")))
            };
        }
        let Role::Initiator(initiator) = &self.role else { return Ok(()) };
        let due = initiator.due();
        if !due && self.outbox.is_empty() {
            self.heard = cx.now;
            return Ok(());
        }
        if since(self.heard) >= options.silence {
            let silent =
                Duration::from_millis(u64::try_from(options.silence.as_millis()).unwrap_or(u64::MAX));
            return Err(Error::Lost(format!("it has been silent for {silent:?}")));
        }
        let every = options.silence / PINGS_PER_SILENCE;
        if since(self.heard) >= every && self.pinged.is_none_or(|then| since(then) >= every) {
            self.pinged = Some(cx.now);
            self.outbox.push(Head::new(Kind::Ping, 0).frame())?;
        }
        Ok(())
    }

    /// What comes for a transfer is not wanted any more.
    pub(super) fn discard(&mut self, transfer: TransferId, shared: &Shared) {
        if self.receiving.discard(transfer) {
            shared.with(|state| state.chunk_dropped(transfer));
        }
    }

    /// Tells the initiator that messages were polled.
    ///
    /// # Errors
    /// Why it is to be closed.
    pub(super) fn credit(&mut self, messages: u32, bytes: u32) -> Result<(), Error> {
        let head = Head { ranges: messages, bytes, ..Head::new(Kind::Credit, 0) };
        Ok(self.outbox.push(head.frame())?)
    }

    /// Whether something waits to be sent that the socket would take.
    pub(super) fn has_words(&self) -> bool {
        self.socket.has_unsent() || (!self.outbox.is_empty() && self.socket.takes())
    }

    /// Whether it touches the bytes of one of these leases.
    pub(super) fn uses(&self, tokens: &[Token]) -> bool {
        let uses = self.outbox.uses().chain(self.receiving.used());
        uses.into_iter().any(|used| tokens.contains(&used.token()))
    }

    /// It is over: gives back what it holds and says so. The socket is closed when it is dropped.
    pub(super) fn end(mut self, error: Error, shared: &Shared) {
        end_uses(shared, self.outbox.clear());
        end_uses(shared, self.receiving.abandon());
        match self.role {
            Role::Initiator(initiator) => {
                shared.with(|state| state.stream_closed(initiator.peer(), self.key, error));
            }
            Role::Owner(owner) => {
                if let Some(life) = owner.life() {
                    shared.with(|state| state.guest_out(life, self.key, error));
                }
            }
        }
    }

    /// Sends what the sockets takes at once of what waits: the last words before it is closed.
    pub(super) fn last_words(&mut self, shared: &Shared) {
        if matches!(self.greeting, Greeting::Over)
            && let Ok(sent) = self.outbox.send(&mut self.socket)
        {
            end_uses(shared, sent.ended);
        }
    }

    fn initiator(&mut self) -> Result<&mut Initiator, Violation> {
        match &mut self.role {
            Role::Initiator(initiator) => Ok(initiator),
            Role::Owner(_) => Err(Violation("an answer to no question")),
        }
    }

    fn owner(&mut self) -> Result<&mut Owner, Violation> {
        match &mut self.role {
            Role::Owner(owner) => Ok(owner),
            Role::Initiator(_) => Err(Violation("a question where answers are due")),
        }
    }

    fn life(&self) -> Option<&Arc<Identity>> {
        match &self.role {
            Role::Owner(owner) => owner.life(),
            Role::Initiator(_) => None,
        }
    }
}

fn end_uses(shared: &Shared, uses: Vec<InUse>) {
    if !uses.is_empty() {
        shared.with(|state| uses.into_iter().for_each(|used| state.end_use(used)));
    }
}
