//! What a peer must know to connect, as bytes. Parsing is strict: what was not written by [`Metadata::encode`] of the
//! same version is refused whole, for a half-understood address or region would be used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::limits::{MAX_ADDRESSES, MAX_METADATA, PROTOCOL};
use crate::fabric::Backend;
use crate::fabric::common::{Identity, Reader, Writer, read_header, write_header};
use crate::memory::MAX_REGIONS;
use crate::{Error, RegionId};

const V4: u8 = 4;
const V6: u8 = 6;

/// Who somebody is, where, and what memory they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) identity: Identity,
    /// 1 to [`MAX_ADDRESSES`]; several are rails.
    pub(super) addresses: Vec<SocketAddr>,
    /// Ascending by number; bytes of each.
    pub(super) regions: Vec<(RegionId, u64)>,
}

impl Metadata {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = write_header(Backend::Tcp, PROTOCOL, &self.identity);
        out.put_u8(u8::try_from(self.addresses.len()).expect("there are at most 16 addresses"));
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.put_u8(V4);
                    out.put(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.put_u8(V6);
                    out.put(&ip.octets());
                }
            }
            out.put_u16(address.port());
        }
        out.put_u16(u16::try_from(self.regions.len()).expect("there are at most 1024 regions"));
        for (region, len) in &self.regions {
            out.put_u32(region.0);
            out.put_u64(*len);
        }
        out
    }

    /// # Errors
    /// [`Error::Version`], or [`Error::Metadata`] for all else.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_METADATA {
            return Err(Error::Metadata("it is too long"));
        }
        let (identity, mut reader) = read_header(bytes, Backend::Tcp, PROTOCOL)?;
        let addresses = addresses(&mut reader)?;
        let regions = regions(&mut reader)?;
        if !reader.is_empty() {
            return Err(Error::Metadata("something follows it"));
        }
        Ok(Self { identity, addresses, regions })
    }
}

const SHORT: Error = Error::Metadata("it ends too early");

fn addresses(reader: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Error> {
    let count = usize::from(reader.u8().ok_or(SHORT)?);
    if !(1..=MAX_ADDRESSES).contains(&count) {
        return Err(Error::Metadata("it holds no address, or more than 16"));
    }
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        let ip = match reader.u8().ok_or(SHORT)? {
            V4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>().ok_or(SHORT)?)),
            V6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>().ok_or(SHORT)?)),
            _ => return Err(Error::Metadata("an address is neither IPv4 nor IPv6")),
        };
        let port = reader.u16().ok_or(SHORT)?;
        if port == 0 || ip.is_unspecified() || ip.is_multicast() {
            return Err(Error::Metadata("an address is nowhere to connect to"));
        }
        addresses.push(SocketAddr::new(ip, port));
    }
    Ok(addresses)
}

fn regions(reader: &mut Reader<'_>) -> Result<Vec<(RegionId, u64)>, Error> {
    let count = usize::from(reader.u16().ok_or(SHORT)?);
    if count > MAX_REGIONS {
        return Err(Error::Metadata("it lists more than 1024 regions"));
    }
    let mut regions: Vec<(RegionId, u64)> = Vec::with_capacity(count);
    for _ in 0..count {
        let region = RegionId(reader.u32().ok_or(SHORT)?);
        if regions.last().is_some_and(|(before, _)| *before >= region) {
            return Err(Error::Metadata("its regions are not in order"));
        }
        regions.push((region, reader.u64().ok_or(SHORT)?));
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{AgentName, Epoch};

    fn sample() -> Metadata {
        Metadata {
            identity: Identity { name: AgentName::new("llm/prefill-0").unwrap(), epoch: Epoch(7) },
            addresses: vec!["10.0.0.1:7000".parse().unwrap(), "[fd00::1]:7001".parse().unwrap()],
            regions: vec![(RegionId(0), 1 << 40), (RegionId(3), 4096)],
        }
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(Metadata::parse(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_truncation_and_every_trailing_byte_is_refused() {
        let whole = sample().encode();
        for end in 0..whole.len() {
            assert_eq!(Metadata::parse(&whole[..end]).unwrap_err().code(), "bad_metadata", "{end} bytes");
        }
        assert_eq!(Metadata::parse(&[&whole[..], b"x"].concat()).unwrap_err().code(), "bad_metadata");
        assert_eq!(Metadata::parse(&vec![0; MAX_METADATA + 1]).unwrap_err().code(), "bad_metadata");
        assert_eq!(Metadata::parse(b"{\"json\": true}").unwrap_err().code(), "bad_metadata");
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sample().encode();
        bytes[4..6].copy_from_slice(&9_u16.to_le_bytes());
        assert_eq!(Metadata::parse(&bytes), Err(Error::Version(9, PROTOCOL)));
    }

    #[test]
    fn addresses_and_regions_that_mean_nothing_are_refused() {
        for break_it in [
            |meta: &mut Metadata| meta.addresses.clear(),
            |meta: &mut Metadata| meta.addresses[0].set_port(0),
            |meta: &mut Metadata| meta.addresses[0].set_ip("0.0.0.0".parse().unwrap()),
            |meta: &mut Metadata| meta.regions.swap(0, 1),
            |meta: &mut Metadata| meta.regions[0].0 = RegionId(3),
        ] {
            let mut meta = sample();
            break_it(&mut meta);
            assert_eq!(Metadata::parse(&meta.encode()).unwrap_err().code(), "bad_metadata", "{meta:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_from_anywhere_are_refused_or_are_exactly_what_would_be_written(
            at in 0_usize..80, byte in any::<u8>(), tail in proptest::collection::vec(any::<u8>(), 0..4)
        ) {
            let mut bytes = sample().encode();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.extend(tail);
            if let Ok(parsed) = Metadata::parse(&bytes) {
                prop_assert_eq!(parsed.encode(), bytes);
            }
        }
    }
}
