//! What a peer must know to meet this side: who it is, by which plugin, and where its control connection is. Nothing of
//! NIXL's own is in it: where the plugin is reached, and the keys to regions, go over the control connection, for NIXL
//! believes what it is given.

use super::limits::PROTOCOL;
use crate::Error;
use crate::fabric::Backend;
use crate::fabric::common::{Identity, Writer, read_header, write_header};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) identity: Identity,
    pub(super) plugin: String,
    pub(super) control: Vec<u8>,
}

impl Metadata {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = write_header(Backend::Nixl, PROTOCOL, &self.identity);
        out.put_counted(self.plugin.as_bytes());
        out.put_counted(&self.control);
        out
    }

    pub(super) fn decode(metadata: &[u8]) -> Result<Self, Error> {
        let (identity, mut reader) = read_header(metadata, Backend::Nixl, PROTOCOL)?;
        let short = || Error::Metadata("it ends too early");
        let plugin = std::str::from_utf8(reader.counted().ok_or_else(short)?);
        let plugin = plugin.map_err(|_| Error::Metadata("its plugin's name is no text"))?.to_owned();
        let control = reader.counted().ok_or_else(short)?.to_vec();
        if !reader.is_empty() {
            return Err(Error::Metadata("more follows than belongs to it"));
        }
        Ok(Self { identity, plugin, control })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentName, Epoch};

    fn sample() -> Metadata {
        let identity = Identity { name: AgentName::new("prefill-0").unwrap(), epoch: Epoch(9) };
        Metadata { identity, plugin: "UCX".into(), control: vec![7; 50] }
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
}
