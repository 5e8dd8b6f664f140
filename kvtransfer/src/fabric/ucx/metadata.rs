//! What a peer must know to go to this side: who it is, and its worker's address. No region and no key is in it: keys come
//! from the owner of the memory, under a lease. So metadata of yesterday's regions is as good as today's.

use super::limits::{MAX_ADDRESS, PROTOCOL};
use crate::Error;
use crate::fabric::Backend;
use crate::fabric::common::{Identity, Writer, read_header, write_header};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) identity: Identity,
    pub(super) address: Vec<u8>,
}

impl Metadata {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = write_header(Backend::Ucx, PROTOCOL, &self.identity);
        out.put_counted(&self.address);
        // UCX believes an address that it is given, so what was cut off or spoilt on the way must be found before.
        let sum = crc32fast::hash(&out);
        out.put_u32(sum);
        out
    }

    pub(super) fn decode(metadata: &[u8]) -> Result<Self, Error> {
        let (identity, mut reader) = read_header(metadata, Backend::Ucx, PROTOCOL)?;
        let short = || Error::Metadata("it ends too early");
        let address = reader.counted().ok_or_else(short)?;
        if address.is_empty() || address.len() > MAX_ADDRESS {
            return Err(Error::Metadata("its worker's address is empty or too long"));
        }
        let sum = reader.u32().ok_or_else(short)?;
        if !reader.is_empty() {
            return Err(Error::Metadata("more follows than belongs to it"));
        }
        if sum != crc32fast::hash(&metadata[..metadata.len() - size_of_val(&sum)]) {
            return Err(Error::Metadata("it was changed on its way"));
        }
        Ok(Self { identity, address: address.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentName, Epoch};

    fn sample() -> Metadata {
        let identity = Identity { name: AgentName::new("prefill-0").unwrap(), epoch: Epoch(9) };
        Metadata { identity, address: vec![7; 213] }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Metadata::decode(&sample().encode()).unwrap(), sample());
    }

    #[test]
    fn too_few_and_too_many_bytes_are_told() {
        let mut bytes = sample().encode();
        for len in 0..bytes.len() {
            assert_eq!(Metadata::decode(&bytes[..len]).unwrap_err().code(), "bad_metadata", "{len}");
        }
        bytes.push(0);
        assert_eq!(Metadata::decode(&bytes).unwrap_err().code(), "bad_metadata");
    }

    #[test]
    fn no_changed_byte_gets_to_the_library() {
        let bytes = sample().encode();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Metadata::decode(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn an_address_that_no_worker_has_is_told() {
        for len in [0, MAX_ADDRESS + 1] {
            let metadata = Metadata { address: vec![1; len], ..sample() };
            assert_eq!(Metadata::decode(&metadata.encode()).unwrap_err().code(), "bad_metadata");
        }
    }
}
