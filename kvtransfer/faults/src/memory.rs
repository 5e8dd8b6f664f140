//! The memory that a fabric has registered, so that a byte of it can be changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvferry_transfer::memory::Region;
use kvferry_transfer::{Place, RegionId};

/// The regions of one fabric. Clones name the same.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<HashMap<RegionId, Region>>>);

impl Memory {
    pub(crate) fn insert(&self, id: RegionId, region: Region) {
        self.regions().insert(id, region);
    }

    pub(crate) fn remove(&self, id: RegionId) {
        self.regions().remove(&id);
    }

    pub(crate) fn clear(&self) {
        self.regions().clear();
    }

    /// Changes the byte there to another one. `false` if there is none that can be.
    pub(crate) fn spoil(&self, at: Place, by: u8) -> bool {
        let Some(region) = self.regions().get(&at.region).cloned() else { return false };
        let mut byte = [0];
        if !region.read_at(at.offset, &mut byte) {
            return false;
        }
        region.write_at(at.offset, &[byte[0] ^ by.max(1)])
    }

    fn regions(&self) -> MutexGuard<'_, HashMap<RegionId, Region>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
