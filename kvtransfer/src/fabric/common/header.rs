//! How metadata of our own fabrics begins: what it is, of which version, of which fabric, and who its agent is. Whoever
//! reads it trusts none of it: it came by a way that is not ours.

use std::fmt;

use super::{Reader, Writer};
use crate::fabric::Backend;
use crate::{AgentName, Epoch, Error};

/// How metadata can be told from anything else.
const MAGIC: [u8; 4] = *b"KVFm";

/// One life of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// Who.
    pub(crate) name: AgentName,
    /// Which life.
    pub(crate) epoch: Epoch,
}

impl Identity {
    /// Appends it.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(self.epoch.0);
        out.put_counted(self.name.as_str().as_bytes());
    }

    /// Takes it from the front.
    pub(crate) fn read(from: &mut Reader<'_>) -> Option<Self> {
        let epoch = Epoch(from.u64()?);
        let name = std::str::from_utf8(from.counted()?).ok().and_then(AgentName::new)?;
        Some(Self { name, epoch })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.epoch)
    }
}

/// The first bytes of metadata. A fabric's own follow.
pub(crate) fn write_header(backend: Backend, version: u16, identity: &Identity) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.put_u16(version);
    out.put_counted(backend.name().as_bytes());
    identity.write(&mut out);
    out
}

/// Whose metadata it is, and what is left for the fabric to read.
///
/// # Errors
/// [`Error::Metadata`], or [`Error::Version`] if it is of another version.
pub(crate) fn read_header(
    metadata: &[u8],
    backend: Backend,
    version: u16,
) -> Result<(Identity, Reader<'_>), Error> {
    let mut reader = Reader::new(metadata);
    let short = || Error::Metadata("it ends too early");
    if reader.array().ok_or_else(short)? != MAGIC {
        return Err(Error::Metadata("it is not kvferry's"));
    }
    let theirs = reader.u16().ok_or_else(short)?;
    if theirs != version {
        return Err(Error::Version(theirs, version));
    }
    if reader.counted().ok_or_else(short)? != backend.name().as_bytes() {
        return Err(Error::Metadata("it is of another fabric"));
    }
    let identity = Identity::read(&mut reader).ok_or(Error::Metadata("it names no agent"))?;
    Ok((identity, reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> (Identity, Vec<u8>) {
        let identity = Identity { name: AgentName::new("llm/decode-0").unwrap(), epoch: Epoch(7) };
        let bytes = write_header(Backend::Tcp, 3, &identity);
        (identity, bytes)
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_is_left() {
        let (identity, mut bytes) = header();
        bytes.extend(b"rest");
        let (read, mut rest) = read_header(&bytes, Backend::Tcp, 3).unwrap();
        assert_eq!(read, identity);
        assert_eq!(rest.rest(), b"rest");
    }

    #[test]
    fn every_truncation_and_every_foreign_beginning_is_told() {
        let (_, bytes) = header();
        for len in 0..bytes.len() {
            let error = read_header(&bytes[..len], Backend::Tcp, 3).unwrap_err();
            assert_eq!(error.code(), "bad_metadata", "{len}");
        }
        assert_eq!(read_header(b"HTTP/1.1 200 OK", Backend::Tcp, 3).unwrap_err().code(), "bad_metadata");
        assert_eq!(read_header(&bytes, Backend::Shm, 3).unwrap_err().code(), "bad_metadata");
        assert_eq!(read_header(&bytes, Backend::Tcp, 4).unwrap_err(), Error::Version(3, 4));
    }
}
