//! What an agent offers: its fabrics, its regions, and what its caller says about it.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvferry_transfer::RegionId;
use kvferry_transfer::memory::{Device, Kind, MAX_REGIONS};

use super::wire::{Reader, Writer};
use crate::Error;
use crate::limits::{MAX_ABOUT, MAX_FABRICS, MAX_METADATA};

/// Bytes of the name of a kind of fabric.
const MAX_KIND: usize = 64;

/// A fabric, as peers must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Carried {
    /// What kind it is: only those of one kind can talk to each other.
    pub(crate) kind: Box<str>,
    pub(crate) metadata: Bytes,
}

/// A region, as peers must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableRegion {
    pub(crate) len: u64,
    pub(crate) kind: Kind,
    /// What each fabric calls it; `None` where it is not registered.
    pub(crate) ids: Vec<Option<RegionId>>,
}

/// See the module. Later ones replace the first, but for the session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Hello {
    /// Which meeting of the two this is, for this side: another one after it has lost the peer.
    pub(crate) session: u64,
    pub(crate) fabrics: Vec<Carried>,
    pub(crate) regions: BTreeMap<RegionId, TableRegion>,
    pub(crate) about: Bytes,
}

impl Hello {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u64(self.session);
        out.put_count(self.fabrics.len());
        for fabric in &self.fabrics {
            out.put_counted(fabric.kind.as_bytes());
            out.put_counted(&fabric.metadata);
        }
        out.put_count(self.regions.len());
        for (id, region) in &self.regions {
            out.put_u32(id.0);
            out.put_u64(region.len);
            let (kind, device) = kind_to_wire(region.kind);
            out.put_u8(kind);
            out.put_u32(device);
            for index in 0..self.fabrics.len() {
                let id = region.ids.get(index).copied().flatten();
                out.put_u8(id.is_some().into());
                out.put_u32(id.map_or(0, |id| id.0));
            }
        }
        out.put_counted(&self.about);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let session = reader.u64()?;
        let mut fabrics = Vec::new();
        for _ in 0..reader.count(MAX_FABRICS, "more than 16 fabrics")? {
            let kind = reader.text(MAX_KIND, "the kind of a fabric is too long or no text")?.into();
            let metadata = reader.counted(MAX_METADATA, "a fabric's metadata is longer than 128 KiB")?;
            fabrics.push(Carried { kind, metadata: Bytes::copy_from_slice(metadata) });
        }
        let mut regions = BTreeMap::new();
        for _ in 0..reader.count(MAX_REGIONS, "more than 1024 regions")? {
            let id = RegionId(reader.u32()?);
            let len = reader.u64()?;
            let kind = kind_from_wire(reader.u8()?, reader.u32()?)?;
            let ids = (0..fabrics.len()).map(|_| read_id(reader)).collect::<Result<_, _>>()?;
            if regions.last_key_value().is_some_and(|(last, _)| *last >= id) {
                return Err(Error::Malformed("regions are not in order"));
            }
            regions.insert(id, TableRegion { len, kind, ids });
        }
        let about = Bytes::copy_from_slice(
            reader.counted(MAX_ABOUT, "what it says about itself is longer than 64 KiB")?,
        );
        Ok(Self { session, fabrics, regions, about })
    }
}

fn read_id(reader: &mut Reader<'_>) -> Result<Option<RegionId>, Error> {
    match (reader.u8()?, reader.u32()?) {
        (0, 0) => Ok(None),
        (1, id) => Ok(Some(RegionId(id))),
        _ => Err(Error::Malformed("a region is neither registered with a fabric nor not")),
    }
}

const fn kind_to_wire(kind: Kind) -> (u8, u32) {
    match kind {
        Kind::Host => (0, 0),
        Kind::Cuda(Device(device)) => (1, device),
        Kind::Rocm(Device(device)) => (2, device),
        Kind::Xpu(Device(device)) => (3, device),
        Kind::Tpu(Device(device)) => (4, device),
    }
}

const fn kind_from_wire(kind: u8, device: u32) -> Result<Kind, Error> {
    Ok(match (kind, device) {
        (0, 0) => Kind::Host,
        (1, device) => Kind::Cuda(Device(device)),
        (2, device) => Kind::Rocm(Device(device)),
        (3, device) => Kind::Xpu(Device(device)),
        (4, device) => Kind::Tpu(Device(device)),
        _ => return Err(Error::Malformed("a region is of an unknown kind of memory")),
    })
}
