//! Regions of this side: the agent's numbers, and each fabric's for the same memory.

use std::collections::BTreeMap;

use kvferry_transfer::memory::{MAX_REGIONS, Region};
use kvferry_transfer::{RegionId, Span};

use crate::Error;
use crate::options::Carrier;
use crate::protocol::TableRegion;

/// A region.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) region: Region,
    /// What each fabric calls it; `None` where it cannot be reached.
    pub(crate) ids: Vec<Option<RegionId>>,
    /// Transfers that name it.
    uses: usize,
}

/// All of them. Numbers are not used twice.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    next: u32,
    live: BTreeMap<RegionId, Entry>,
}

impl Regions {
    /// Registers memory with every fabric that can reach such memory.
    ///
    /// # Errors
    /// What a fabric says that could reach it, but has failed: left out, it would be missing without a word.
    /// [`MemoryKind`](kvferry_transfer::Error::MemoryKind) if none can reach it.
    pub(crate) fn add(&mut self, carriers: &[Carrier], region: Region) -> Result<RegionId, Error> {
        if self.live.len() >= MAX_REGIONS {
            return Err(Error::Full("regions registered at a time (1024)"));
        }
        let mut ids = Vec::with_capacity(carriers.len());
        for carrier in carriers {
            match carrier.fabric.register(region.clone()) {
                Ok(id) => ids.push(Some(id)),
                // One that has ended has nothing to reach; the others go on.
                Err(kvferry_transfer::Error::MemoryKind(_) | kvferry_transfer::Error::Closed) => {
                    ids.push(None);
                }
                Err(error) => {
                    forget(carriers, &ids)?;
                    return Err(error.into());
                }
            }
        }
        if ids.iter().all(Option::is_none) {
            return Err(kvferry_transfer::Error::MemoryKind(region.kind().name()).into());
        }
        let id = RegionId(self.next);
        self.next = self.next.checked_add(1).ok_or(Error::Full("region numbers of one epoch"))?;
        self.live.insert(id, Entry { region, ids, uses: 0 });
        Ok(id)
    }

    /// Forgets a region. Whether leases name it is for the caller to know.
    ///
    /// # Errors
    /// [`UnknownRegion`](kvferry_transfer::Error::UnknownRegion), or
    /// [`RegionBusy`](kvferry_transfer::Error::RegionBusy), and then it can be tried again.
    pub(crate) fn remove(&mut self, carriers: &[Carrier], id: RegionId) -> Result<(), Error> {
        let entry = self.live.get_mut(&id).ok_or(kvferry_transfer::Error::UnknownRegion(id))?;
        if entry.uses > 0 {
            return Err(kvferry_transfer::Error::RegionBusy(id).into());
        }
        for (carrier, of) in carriers.iter().zip(&mut entry.ids) {
            if let Some(number) = *of {
                match carrier.fabric.deregister(number) {
                    Ok(()) | Err(kvferry_transfer::Error::Closed) => *of = None,
                    Err(kvferry_transfer::Error::RegionBusy(_)) => {
                        return Err(kvferry_transfer::Error::RegionBusy(id).into());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.live.remove(&id);
        Ok(())
    }

    pub(crate) fn get(&self, id: RegionId) -> Result<&Entry, Error> {
        self.live.get(&id).ok_or_else(|| kvferry_transfer::Error::UnknownRegion(id).into())
    }

    /// The region that a range lies in.
    pub(crate) fn check(&self, span: &Span) -> Result<&Entry, Error> {
        let entry = self.get(span.at.region)?;
        let len = entry.region.len();
        match span.end() {
            Some(end) if end <= len => Ok(entry),
            _ => Err(kvferry_transfer::Error::OutOfRegion(span.at.region, len).into()),
        }
    }

    /// Counts a transfer that names these.
    pub(crate) fn begin(&mut self, ids: &[RegionId]) {
        for id in ids {
            if let Some(entry) = self.live.get_mut(id) {
                entry.uses += 1;
            }
        }
    }

    /// It has ended.
    pub(crate) fn end(&mut self, ids: &[RegionId]) {
        for id in ids {
            if let Some(entry) = self.live.get_mut(id) {
                entry.uses = entry.uses.saturating_sub(1);
            }
        }
    }

    /// As peers are told.
    pub(crate) fn table(&self) -> BTreeMap<RegionId, TableRegion> {
        let row = |entry: &Entry| TableRegion {
            len: entry.region.len(),
            kind: entry.region.kind(),
            ids: entry.ids.clone(),
        };
        self.live.iter().map(|(id, entry)| (*id, row(entry))).collect()
    }

    /// The memory that ranges lie in, for reading it later.
    pub(crate) fn memory(&self, spans: impl Iterator<Item = Span>) -> Result<Vec<(Region, Span)>, Error> {
        spans.map(|span| self.check(&span).map(|entry| (entry.region.clone(), span))).collect()
    }
}

fn forget(carriers: &[Carrier], ids: &[Option<RegionId>]) -> Result<(), Error> {
    for (carrier, id) in carriers.iter().zip(ids) {
        if let Some(id) = id {
            carrier.fabric.deregister(*id)?;
        }
    }
    Ok(())
}
