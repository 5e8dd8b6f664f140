//! The first that is said: which versions, who, which life of it. Where the versions stand is the same in all versions.

use kvferry_transfer::{AgentName, Epoch};

use super::VERSIONS;
use super::wire::{Reader, Writer};
use crate::Error;
use crate::limits::MAX_GREETING;

/// How a connection of agents begins.
pub(crate) const MAGIC: [u8; 4] = *b"KVFa";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) name: AgentName,
    pub(crate) epoch: Epoch,
    pub(crate) nonce: [u8; 32],
    /// Whether it wants, and gives, proof of the secret.
    pub(crate) secret: bool,
}

impl Greeting {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u16(VERSIONS.0);
        out.put_u16(VERSIONS.1);
        out.put_u64(self.epoch.0);
        out.put(&self.nonce);
        out.put_u8(self.secret.into());
        out.put_counted(self.name.as_str().as_bytes());
        out
    }

    /// # Errors
    /// [`Error::Version`] if there is none in common, [`Error::Malformed`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let theirs = (reader.u16()?, reader.u16()?);
        if theirs.0 > VERSIONS.1 || theirs.1 < VERSIONS.0 || theirs.0 > theirs.1 {
            return Err(Error::Version(theirs, VERSIONS));
        }
        let epoch = Epoch(reader.u64()?);
        let nonce = reader.array()?;
        let secret = match reader.u8()? {
            0 => false,
            1 => true,
            _ => {
                return Err(Error::Malformed(
                    "a greeting says neither whether it has a secret nor that it has none",
                ));
            }
        };
        let name = reader.text(MAX_GREETING, "a greeting's name is too long")?;
        let name = AgentName::new(name).ok_or(Error::Malformed("a greeting names no agent"))?;
        reader.end()?;
        Ok(Self { name, epoch, nonce, secret })
    }
}

/// Whether this agent can talk to whoever sent `theirs`; `expected` is whom it meant to reach.
///
/// # Errors
/// Why not.
pub(crate) fn check(
    own: &Greeting,
    theirs: &Greeting,
    expected: Option<&(AgentName, Option<Epoch>)>,
) -> Result<(), Error> {
    if theirs.name == own.name {
        let same = theirs.epoch == own.epoch;
        return Err(if same { Error::SelfConnect } else { Error::NameClash(own.name.clone()) });
    }
    match (own.secret, theirs.secret) {
        (true, false) => return Err(Error::Unauthenticated("it has no secret, and this agent has one")),
        (false, true) => return Err(Error::Unauthenticated("it wants a secret, and this agent has none")),
        _ => {}
    }
    let Some((name, epoch)) = expected else { return Ok(()) };
    if theirs.name != *name {
        return Err(Error::WrongPeer(name.clone(), theirs.name.clone()));
    }
    match epoch {
        Some(epoch) if theirs.epoch != *epoch => Err(Error::StaleEpoch(*epoch, theirs.epoch)),
        _ => Ok(()),
    }
}
