//! One encrypted stream. It turns places into records and records into places, and never waits: what the socket does not
//! take stays here, bounded by one batch, and so does what has come and has no place yet.
//!
//! Plain bytes are copied once on each side, through a buffer that stays in the cache: the memory they lie in may be
//! written by others, so no cipher may work on it. Of rustls' two interfaces it is the unbuffered one, which was twice as
//! fast at decrypting (3.4 instead of 1.7 GB/s on one core) and as fast at encrypting (3.5).

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use socket2::Socket as Raw;

use super::super::inbuf::InBuf;
use super::super::places::{Gather, Scatter};
use super::records::{AROUND, BATCH, Out, READ_LEAST, RECORD, Step, make, problem};
use super::{PLAIN, Tls, TlsProblem};

/// Bytes that may wait to be understood: a chain of certificates as long as most sides take, which comes as one message.
const WAITING_MOST: usize = 128 << 10;

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Session {
    side: Side,
    incoming: InBuf,
    /// Whether something that came was TLS.
    heard: bool,
    /// Plain bytes without a place.
    plain: InBuf,
    outgoing: InBuf,
    /// Whether the handshake is over, and plain bytes are taken.
    open: bool,
    /// The peer has said that it sends no more.
    ended: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Side {
    /// Whether it has words for the peer besides what it is given to encrypt.
    fn wants_to_speak(&self) -> bool {
        match self {
            Self::Client(connection) => connection.wants_write(),
            Self::Server(connection) => connection.wants_write(),
        }
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client(..)",
            Self::Server(_) => "Server(..)",
        })
    }
}

impl Session {
    /// Begins one with the peer that is reached at `address`.
    ///
    /// # Errors
    /// If the configuration is of no use.
    pub(in super::super) fn client(tls: &Tls, address: IpAddr) -> Result<Self, TlsProblem> {
        let name = tls.name.clone().unwrap_or_else(|| ServerName::from(address));
        let connection = UnbufferedClientConnection::new(tls.client.clone(), name)?;
        let mut session = Self::new(Side::Client(connection));
        // The first words: nothing has to come for them.
        while matches!(session.look(&mut Scatter::new()), Ok(Step::On)) {}
        Ok(session)
    }

    /// Serves one that has come in.
    ///
    /// # Errors
    /// As above.
    pub(in super::super) fn server(tls: &Tls) -> Result<Self, TlsProblem> {
        let connection = UnbufferedServerConnection::new(tls.server.clone())?;
        Ok(Self::new(Side::Server(connection)))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            incoming: InBuf::lasting(),
            heard: false,
            plain: InBuf::default(),
            outgoing: InBuf::lasting(),
            open: false,
            ended: false,
        }
    }

    /// Whether plain bytes can be sent.
    pub(in super::super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the socket has still to take something.
    pub(in super::super) fn has_unsent(&self) -> bool {
        !self.outgoing.have().is_empty()
    }

    /// Nothing happens for a while: gives memory back.
    pub(in super::super) fn rest(&mut self) {
        self.incoming.rest();
        self.outgoing.rest();
    }

    /// Receives into the front of `places` what there is. Fewer bytes than there are places only if the socket has no more
    /// for now.
    ///
    /// # Errors
    /// Those of the socket, [`io::ErrorKind::WouldBlock`] among them, or a [`TlsProblem`].
    pub(in super::super) fn receive(&mut self, socket: &Raw, places: &mut Scatter<'_>) -> io::Result<usize> {
        let asked = places.room();
        let taken = places.put(self.plain.have());
        self.plain.consume(taken);
        let mut dry = false;
        while places.room() > 0 {
            if self.sees_plain_words() {
                return Err(problem(TlsProblem::PeerIsPlain));
            }
            while matches!(self.look_or_tell(socket, places)?, Step::On) {}
            if dry || places.room() == 0 || self.ended {
                break;
            }
            if self.incoming.have().len() > WAITING_MOST {
                return Err(problem(TlsProblem::Other("it sends a message without an end".into())));
            }
            // What is to come for these places, records' frames included, and not much of what follows.
            let wanted = places.room().div_ceil(RECORD).clamp(1, BATCH) * (RECORD + AROUND);
            let room = self.incoming.room(wanted.max(READ_LEAST));
            let asked = room.len();
            match (&mut &*socket).read(room) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    dry = count < asked;
                    self.incoming.came(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let count = asked - places.room();
        if count == 0 && asked > 0 && !self.ended { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
    }

    /// Sends from the front of `parts` what the socket takes and what may wait here. If [something is left
    /// unsent](Self::has_unsent), the socket takes no more for now.
    ///
    /// # Errors
    /// Those of the socket but [`io::ErrorKind::WouldBlock`], or a [`TlsProblem`].
    pub(in super::super) fn send(&mut self, socket: &Raw, parts: &mut Gather<'_>) -> io::Result<usize> {
        let mut taken = 0;
        while self.flush(socket)? && self.open {
            let count = self.encrypt(parts)?;
            taken += count;
            if count == 0 && !self.has_unsent() {
                break;
            }
        }
        Ok(taken)
    }

    /// Whether the socket has taken all that waits here.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(in super::super) fn flush(&mut self, socket: &Raw) -> io::Result<bool> {
        while self.has_unsent() {
            match socket.send_with_flags(self.outgoing.have(), libc::MSG_NOSIGNAL) {
                Ok(count) => self.outgoing.consume(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The peer's first words are those of a plain stream.
    fn sees_plain_words(&self) -> bool {
        !self.heard && self.incoming.have().first() == Some(&PLAIN)
    }

    /// What has come, if it is no TLS.
    pub(in super::super) fn into_words(self) -> InBuf {
        self.incoming
    }

    /// Like [`look`](Self::look); if it goes wrong, the peer is told why.
    fn look_or_tell(&mut self, socket: &Raw, places: &mut Scatter<'_>) -> io::Result<Step> {
        self.look(places).inspect_err(|_| {
            // rustls has an alert ready for most errors, and must not be shown what came once more. Whoever does not hear
            // it will hear of the connection's end.
            while self.side.wants_to_speak() && matches!(self.look(places), Ok(Step::On)) {}
            let _ = self.flush(socket);
        })
    }

    /// Acts upon what has come: decrypts into `places`, or gets on with the handshake.
    fn look(&mut self, places: &mut Scatter<'_>) -> io::Result<Step> {
        let Self { side, incoming, heard, plain, outgoing, open, ended } = self;
        let mut out = Out { places, plain, outgoing, open, ended };
        let (discard, step) = match side {
            Side::Client(connection) => out.act(connection.process_tls_records(incoming.have_mut())),
            Side::Server(connection) => out.act(connection.process_tls_records(incoming.have_mut())),
        };
        *heard |= discard > 0;
        incoming.consume(discard);
        step
    }

    /// Makes a batch of records; how many plain bytes are in it.
    fn encrypt(&mut self, parts: &mut Gather<'_>) -> io::Result<usize> {
        // Before something can be encrypted, what has come must have been understood; that is for places to come.
        while matches!(self.look(&mut Scatter::new())?, Step::On) {}
        let Self { side, incoming, outgoing, .. } = self;
        let (discard, made) = match side {
            Side::Client(connection) => {
                make(connection.process_tls_records(incoming.have_mut()), parts, outgoing)
            }
            Side::Server(connection) => {
                make(connection.process_tls_records(incoming.have_mut()), parts, outgoing)
            }
        };
        incoming.consume(discard);
        made
    }
}
