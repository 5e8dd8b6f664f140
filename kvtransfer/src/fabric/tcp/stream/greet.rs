//! The first words of a stream, on both sides. See [`hello`](super::super::hello) for what is said.

use std::net::SocketAddr;
use std::sync::Arc;

use super::super::hello::{Hello, Nonce, PREFIX, Verdict, Welcome, initiator_proof, owner_proof, prefix};
use super::super::hmac::{PROOF, Proof};
use super::super::socket::{device, random};
use super::super::tls::{HANDSHAKE, TlsProblem};
use super::{Context, Role, Stream};
use crate::Error;
use crate::fabric::common::Identity;

/// How far they have come.
#[derive(Debug)]
pub(super) enum Greeting {
    /// The connection is on its way.
    Dialing { to: Identity, address: SocketAddr },
    /// We said hello, thus.
    Waiting { hello: Hello, said: Vec<u8> },
    /// Somebody has connected and said nothing.
    Stranger,
    /// Somebody has said who it is and is to prove it.
    Proving { from: Identity, proof: Proof },
    /// Both sides know each other.
    Over,
}

fn nonce() -> Result<Nonce, Error> {
    random().map_err(|error| Error::system("random bytes for a connection", &error))
}

impl Stream {
    /// The connection stands, or does not: says hello.
    pub(super) fn dialed(&mut self, cx: &Context<'_>) -> Result<(), Error> {
        let Greeting::Dialing { to, address } = &self.greeting else { return Ok(()) };
        if !self.writable {
            return Ok(());
        }
        self.socket
            .outcome()
            .map_err(|error| Error::Lost(format!("cannot connect to {address}: {error}")))?;
        if let Some(tls) = &cx.shared.options.tls {
            self.socket.encrypt_for(tls, address.ip()).map_err(Error::Tls)?;
        }
        let proves = cx.shared.options.secret.is_some();
        let hello = Hello { from: cx.shared.own.clone(), to: to.clone(), nonce: nonce()?, proves };
        let said = hello.encode();
        self.outbox.push(said.clone())?;
        self.greeting = Greeting::Waiting { hello, said };
        Ok(())
    }

    /// Understands the next words, if all of them are there. How many bytes are needed, if not.
    pub(super) fn greet(&mut self, cx: &Context<'_>) -> Result<Result<(), usize>, Error> {
        let proof = if matches!(self.greeting, Greeting::Proving { .. }) { Some(PROOF) } else { None };
        let have = self.inbuf.have();
        let need = match (proof, have.first_chunk::<PREFIX>()) {
            (Some(proof), _) => proof,
            (None, None) => PREFIX,
            (None, Some(words)) => match prefix(*words) {
                Ok(_) if self.is_stranger() && self.encrypts_alone(cx) => {
                    return self.refuse(TlsProblem::PeerIsPlain);
                }
                Ok(body) => PREFIX + body,
                Err(_) if self.is_stranger() && words[0] == HANDSHAKE => {
                    return self.refuse(TlsProblem::PeerEncrypts);
                }
                Err(error) => return self.misfit(error),
            },
        };
        if have.len() < need {
            return Ok(Err(need));
        }
        let words = have[..need].to_vec();
        self.inbuf.consume(need);
        match std::mem::replace(&mut self.greeting, Greeting::Over) {
            Greeting::Waiting { hello, said } => self.welcomed(&hello, &said, &words, cx)?,
            Greeting::Stranger => self.introduced(&words, cx)?,
            Greeting::Proving { from, proof } => {
                if !proof.is(&words) {
                    return Err(Error::Unauthenticated("the peer does not know the shared secret"));
                }
                self.let_in(from, false, cx)?;
            }
            Greeting::Dialing { .. } | Greeting::Over => {
                return Err(Error::Lost("the peer spoke before its time".into()));
            }
        }
        Ok(Ok(()))
    }

    /// An initiator of another version is told ours: the answer's prefix says it.
    fn misfit(&mut self, error: Error) -> Result<Result<(), usize>, Error> {
        if matches!((&self.role, &error), (Role::Owner(_), Error::Version(..))) && self.closing.is_none() {
            self.answer(Verdict::Another, [0; 16], [0; PROOF])?;
            self.turn_away(error);
            return Ok(Ok(()));
        }
        Err(error)
    }

    /// Whether this side encrypts and the other one does not.
    fn encrypts_alone(&self, cx: &Context<'_>) -> bool {
        cx.shared.options.tls.is_some() && !self.socket.is_encrypted()
    }

    /// An initiator that does not encrypt although it must, or the other way round, is told so. It is the same word: one
    /// that encrypts looks only at its first byte.
    fn refuse(&mut self, why: TlsProblem) -> Result<Result<(), usize>, Error> {
        self.answer(Verdict::Encryption, [0; 16], [0; PROOF])?;
        self.turn_away(Error::Tls(why));
        Ok(Ok(()))
    }

    /// Nothing more is heard; what waits is sent.
    fn turn_away(&mut self, why: Error) {
        self.inbuf.consume(self.inbuf.have().len());
        self.readable = false;
        self.closing = Some(why);
        self.greeting = Greeting::Stranger;
    }

    fn answer(&mut self, verdict: Verdict, nonce: Nonce, proof: [u8; PROOF]) -> Result<(), Error> {
        Ok(self.outbox.push(Welcome { verdict, nonce, proof }.encode())?)
    }

    /// The owner has answered.
    fn welcomed(&mut self, hello: &Hello, said: &[u8], words: &[u8], cx: &Context<'_>) -> Result<(), Error> {
        let welcome = Welcome::parse(&words[PREFIX..]);
        let welcome =
            welcome.ok_or_else(|| Error::Lost("what is at the other end is no TCP fabric".into()))?;
        let secret = cx.shared.options.secret.as_ref();
        welcome.accept(hello, said, secret)?;
        if let Some(secret) = secret {
            self.outbox.push(initiator_proof(secret, said, &welcome.nonce).shown().to_vec())?;
        }
        self.heard = cx.now;
        let device = self.socket.local().map(device).unwrap_or_default();
        let peer = self.initiator()?.peer();
        let encrypted = self.socket.is_encrypted();
        cx.shared.with(|state| state.stream_up(peer, device, encrypted));
        Ok(())
    }

    /// Somebody says who it is.
    fn introduced(&mut self, words: &[u8], cx: &Context<'_>) -> Result<(), Error> {
        let hello = Hello::parse(&words[PREFIX..]);
        let hello = hello.ok_or_else(|| Error::Lost("what has connected is no TCP fabric".into()))?;
        let secret = cx.shared.options.secret.as_ref();
        let verdict = hello.judge(&cx.shared.own, secret);
        if verdict != Verdict::In {
            self.answer(verdict, [0; 16], [0; PROOF])?;
            self.turn_away(Error::Lost("it was turned away".into()));
            return Ok(());
        }
        let Some(secret) = secret else {
            return self.let_in(hello.from, true, cx);
        };
        let nonce = nonce()?;
        self.answer(verdict, nonce, owner_proof(secret, words, &nonce).shown())?;
        self.greeting = Greeting::Proving { from: hello.from, proof: initiator_proof(secret, words, &nonce) };
        Ok(())
    }

    fn let_in(&mut self, from: Identity, answer: bool, cx: &Context<'_>) -> Result<(), Error> {
        let (life, key) = (Arc::new(from), self.key);
        let room = cx.shared.with(|state| state.guest_in(&life, key));
        if answer {
            self.answer(if room { Verdict::In } else { Verdict::Full }, nonce()?, [0; PROOF])?;
        }
        if !room {
            self.turn_away(Error::Lost("there are as many peers as may be".into()));
            return Ok(());
        }
        self.greeting = Greeting::Over;
        self.owner()?.meets(life);
        Ok(())
    }
}
