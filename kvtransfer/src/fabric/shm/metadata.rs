//! What a peer must know to knock: who listens, on which machine, and at which address.
//!
//! Regions are not in it. The side whose memory it is checks every range, and its file comes with the first transfer that
//! needs it; so metadata of yesterday's regions is as good as today's.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::socket::Address;
use crate::Error;
use crate::fabric::Backend;
use crate::fabric::common::{Identity, Writer, read_header, write_header};

/// The protocol's version. It is 1 until the first release; every change of a frame or of the metadata raises it.
pub(super) const VERSION: u16 = 1;

const ABSTRACT: u8 = 0;
const PATH: u8 = 1;

/// Which run of which machine this is: only its processes share memory.
pub(super) type Host = [u8; 36];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) identity: Identity,
    pub(super) host: Host,
    pub(super) address: Address,
}

impl Metadata {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = write_header(Backend::Shm, VERSION, &self.identity);
        out.put(&self.host);
        let (kind, address) = match &self.address {
            Address::Abstract(name) => (ABSTRACT, name.as_slice()),
            Address::Path(path) => (PATH, path.as_os_str().as_bytes()),
        };
        out.put_u8(kind);
        out.put_counted(address);
        out
    }

    pub(super) fn decode(metadata: &[u8]) -> Result<Self, Error> {
        let (identity, mut reader) = read_header(metadata, Backend::Shm, VERSION)?;
        let short = || Error::Metadata("it ends too early");
        let host = reader.array().ok_or_else(short)?;
        let kind = reader.u8().ok_or_else(short)?;
        let address = reader.counted().ok_or_else(short)?;
        if address.is_empty() || address.len() > Address::MAX_LEN {
            return Err(Error::Metadata("its socket's address is empty or too long"));
        }
        let address = match kind {
            ABSTRACT => Address::Abstract(address.to_vec()),
            PATH if !address.contains(&0) => {
                Address::Path(PathBuf::from(std::ffi::OsStr::from_bytes(address)))
            }
            _ => return Err(Error::Metadata("its socket's address is of no known kind")),
        };
        if reader.is_empty() {
            Ok(Self { identity, host, address })
        } else {
            Err(Error::Metadata("more follows than belongs to it"))
        }
    }
}

/// This machine's run.
pub(super) fn host() -> Result<Host, Error> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let read = std::fs::read(PATH).map_err(|error| Error::system("reading the machine's boot_id", &error))?;
    read.first_chunk().copied().ok_or(Error::System("the machine's boot_id is too short", 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentName, Epoch};

    fn samples() -> Vec<Metadata> {
        let identity = Identity { name: AgentName::new("prefill-0").unwrap(), epoch: Epoch(9) };
        [Address::Abstract(b"kvferry-1".to_vec()), Address::Path("/run/kvferry/shm".into())]
            .map(|address| Metadata { identity: identity.clone(), host: [b'7'; 36], address })
            .to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        for sample in samples() {
            assert_eq!(Metadata::decode(&sample.encode()).unwrap(), sample);
        }
        assert_eq!(host().unwrap(), host().unwrap());
    }

    #[test]
    fn too_few_and_too_many_bytes_are_told() {
        for sample in samples() {
            let mut bytes = sample.encode();
            for len in 0..bytes.len() {
                assert_eq!(Metadata::decode(&bytes[..len]).unwrap_err().code(), "bad_metadata", "{len}");
            }
            bytes.push(0);
            assert_eq!(Metadata::decode(&bytes).unwrap_err().code(), "bad_metadata");
        }
    }

    #[test]
    fn an_address_that_no_socket_can_have_is_told() {
        let mut sample = samples().remove(1);
        for address in
            [Address::Path("".into()), Address::Path("x".repeat(200).into()), Address::Path("a\0b".into())]
        {
            sample.address = address;
            assert_eq!(Metadata::decode(&sample.encode()).unwrap_err().code(), "bad_metadata");
        }
    }
}
