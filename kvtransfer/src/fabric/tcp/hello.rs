//! How a stream begins: both ends say which version they speak, who they are and whom they mean, so that no request ever
//! reaches another life of a process that happens to have the address. With a secret, each proves that it knows it, over
//! both sides' nonces and all that was said, before anything is served.
//!
//! The initiator sends a [`Hello`], the owner answers with a [`Welcome`], and where there is a secret the initiator adds
//! its proof. Where streams are encrypted, all of that is. Magic, version and length come first in every version, so that a newer side can tell an older one.

use super::hmac::{PROOF, Proof};
use super::limits::PROTOCOL;
use super::options::Secret;
use super::tls::TlsProblem;
use crate::fabric::common::{Identity, Reader, Writer};
use crate::ids::MAX_NAME;
use crate::{Epoch, Error};

pub(super) const MAGIC: [u8; 8] = *b"kvferry\n";
/// Magic, version, length of what follows.
pub(super) const PREFIX: usize = 12;
/// The longest that may follow.
const MAX_BODY: usize = 64 + 2 * MAX_NAME;
const NONCE: usize = 16;

/// Random bytes, new for every stream.
pub(super) type Nonce = [u8; NONCE];

/// What the initiator of a stream says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) from: Identity,
    /// Whom it means.
    pub(super) to: Identity,
    pub(super) nonce: Nonce,
    /// Whether it has a secret.
    pub(super) proves: bool,
}

/// What the owner of the memory answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Welcome {
    pub(super) verdict: Verdict,
    pub(super) nonce: Nonce,
    /// Zero if there is no secret.
    pub(super) proof: [u8; PROOF],
}

/// Whether the stream is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    In,
    /// The agent runs in this epoch now.
    Stale(Epoch),
    /// Another agent has the address.
    Another,
    /// One side has a secret and the other has none.
    Secret,
    /// There are as many peers or streams as may be.
    Full,
    /// The owner encrypts and the initiator does not. To one that encrypts and whose owner does not, the answer's first
    /// byte says it.
    Encryption,
}

/// The length of what follows a prefix.
///
/// # Errors
/// [`Error::Lost`] if it is none, [`Error::Version`].
pub(super) fn prefix(bytes: [u8; PREFIX]) -> Result<usize, Error> {
    let mut reader = Reader::new(&bytes);
    let stranger = || Error::Lost("what is at the other end is no TCP fabric".into());
    if reader.array() != Some(MAGIC) {
        return Err(stranger());
    }
    let version = reader.u16().ok_or_else(stranger)?;
    if version != PROTOCOL {
        return Err(Error::Version(version, PROTOCOL));
    }
    let len = usize::from(reader.u16().ok_or_else(stranger)?);
    if len > MAX_BODY { Err(stranger()) } else { Ok(len) }
}

fn prefixed(body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("a hello is some hundred bytes");
    [&MAGIC[..], &PROTOCOL.to_le_bytes(), &len.to_le_bytes(), body].concat()
}

impl Hello {
    /// With its prefix.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = vec![u8::from(self.proves)];
        body.put(&self.nonce);
        self.from.write(&mut body);
        self.to.write(&mut body);
        prefixed(&body)
    }

    /// Reads what follows the prefix; `None` if it is no hello.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let proves = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let nonce = reader.array()?;
        let from = Identity::read(&mut reader)?;
        let to = Identity::read(&mut reader)?;
        reader.is_empty().then_some(Self { from, to, nonce, proves })
    }

    /// What the owner answers who is `own` and may have a secret.
    pub(super) fn judge(&self, own: &Identity, secret: Option<&Secret>) -> Verdict {
        if self.to.name != own.name {
            Verdict::Another
        } else if self.to.epoch != own.epoch {
            Verdict::Stale(own.epoch)
        } else if self.proves != secret.is_some() {
            Verdict::Secret
        } else {
            Verdict::In
        }
    }
}

impl Welcome {
    /// With its prefix.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, epoch) = match self.verdict {
            Verdict::In => (0, 0),
            Verdict::Stale(epoch) => (1, epoch.0),
            Verdict::Another => (2, 0),
            Verdict::Secret => (3, 0),
            Verdict::Full => (4, 0),
            Verdict::Encryption => (5, 0),
        };
        prefixed(&[&[code][..], &u64::to_le_bytes(epoch), &self.nonce, &self.proof].concat())
    }

    /// Reads what follows the prefix; `None` if it is no answer.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let code = reader.u8()?;
        let epoch = Epoch(reader.u64()?);
        let verdict = match code {
            0 => Verdict::In,
            1 => Verdict::Stale(epoch),
            2 => Verdict::Another,
            3 => Verdict::Secret,
            4 => Verdict::Full,
            5 => Verdict::Encryption,
            _ => return None,
        };
        let welcome = Self { verdict, nonce: reader.array()?, proof: reader.array()? };
        reader.is_empty().then_some(welcome)
    }

    /// What the initiator makes of it, who sent `hello`, which is `said` as bytes.
    ///
    /// # Errors
    /// Why the stream cannot be used.
    pub(super) fn accept(&self, hello: &Hello, said: &[u8], secret: Option<&Secret>) -> Result<(), Error> {
        match self.verdict {
            Verdict::In => {}
            Verdict::Stale(found) => return Err(Error::StaleEpoch(hello.to.epoch, found)),
            Verdict::Another => return Err(Error::Metadata("another agent answers at that address")),
            Verdict::Secret => {
                return Err(Error::Unauthenticated("one side has a shared secret and the other has none"));
            }
            Verdict::Full => return Err(Error::Lost("it has as many peers as it takes".into())),
            Verdict::Encryption => return Err(Error::Tls(TlsProblem::PeerEncrypts)),
        }
        match secret {
            Some(secret) if !owner_proof(secret, said, &self.nonce).is(&self.proof) => {
                Err(Error::Unauthenticated("the peer does not know the shared secret"))
            }
            _ => Ok(()),
        }
    }
}

/// What the owner shows to have the secret.
pub(super) fn owner_proof(secret: &Secret, hello: &[u8], nonce: &Nonce) -> Proof {
    Proof::of(secret.bytes(), &[b"kvferry tcp owner", hello, nonce])
}

/// What the initiator shows to have the secret.
pub(super) fn initiator_proof(secret: &Secret, hello: &[u8], nonce: &Nonce) -> Proof {
    Proof::of(secret.bytes(), &[b"kvferry tcp initiator", hello, nonce])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AgentName;

    fn life(name: &str, epoch: u64) -> Identity {
        Identity { name: AgentName::new(name).unwrap(), epoch: Epoch(epoch) }
    }

    fn hello() -> Hello {
        Hello { from: life("decode-0", 1), to: life("prefill-0", 2), nonce: [3; 16], proves: false }
    }

    fn body(bytes: &[u8]) -> &[u8] {
        let len = prefix(bytes[..PREFIX].try_into().unwrap()).unwrap();
        assert_eq!(bytes.len(), PREFIX + len);
        &bytes[PREFIX..]
    }

    #[test]
    fn what_was_said_is_understood_and_nothing_shorter_or_longer() {
        let said = hello().encode();
        assert_eq!(Hello::parse(body(&said)), Some(hello()));
        for end in PREFIX..said.len() {
            assert_eq!(Hello::parse(&said[PREFIX..end]), None);
        }
        assert_eq!(Hello::parse(&[body(&said), b"x"].concat()), None);
        let welcome = Welcome { verdict: Verdict::Stale(Epoch(9)), nonce: [1; 16], proof: [2; 32] };
        let said = welcome.encode();
        assert_eq!(Welcome::parse(body(&said)), Some(welcome));
        assert_eq!(Welcome::parse(&body(&said)[1..]), None);
    }

    #[test]
    fn another_version_and_other_protocols_are_told_apart() {
        let mut said = hello().encode();
        said[8] = 9;
        assert_eq!(prefix(said[..PREFIX].try_into().unwrap()), Err(Error::Version(9, PROTOCOL)));
        assert_eq!(prefix(*b"GET / HTTP/1").unwrap_err().code(), "peer_lost");
    }

    #[test]
    fn only_the_meant_life_answers() {
        let own = life("prefill-0", 2);
        assert_eq!(hello().judge(&own, None), Verdict::In);
        assert_eq!(hello().judge(&life("prefill-0", 3), None), Verdict::Stale(Epoch(3)));
        assert_eq!(hello().judge(&life("prefill-1", 2), None), Verdict::Another);
        assert_eq!(hello().judge(&own, Some(&Secret::new(b"s"))), Verdict::Secret);
    }

    #[test]
    fn a_welcome_without_the_right_proof_is_refused() {
        let (ours, theirs) = (Secret::new(b"ours"), Secret::new(b"theirs"));
        let hello = Hello { proves: true, ..hello() };
        let said = hello.encode();
        let welcome = |secret| Welcome {
            verdict: Verdict::In,
            nonce: [5; 16],
            proof: owner_proof(secret, &said, &[5; 16]).shown(),
        };
        assert_eq!(welcome(&ours).accept(&hello, &said, Some(&ours)), Ok(()));
        let refused = welcome(&theirs).accept(&hello, &said, Some(&ours)).unwrap_err();
        assert_eq!(refused.code(), "unauthenticated");
        let initiators = initiator_proof(&ours, &said, &[5; 16]).shown();
        assert!(!owner_proof(&ours, &said, &[5; 16]).is(&initiators));
    }
}
