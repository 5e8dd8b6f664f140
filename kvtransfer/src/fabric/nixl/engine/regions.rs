//! This side's regions, as NIXL knows them.

use std::rc::Rc;

use nix::sys::resource::{Resource, getrlimit};

use super::Engine;
use crate::fabric::nixl::limits::{MAX_BLOB, MAX_BLOCKS, REQUEST_BYTES};
use crate::fabric::nixl::message::{At, Message};
use crate::fabric::nixl::raw::{Prepared, Registered, memory_of};
use crate::memory::{Kind, Region};
use crate::{Error, PeerId, RegionId};

/// A region that NIXL knows.
#[derive(Debug)]
pub(super) struct Mapped {
    pub(super) region: Region,
    pub(super) registered: Rc<Registered>,
    pub(super) at: At,
    /// What opens it to peers.
    pub(super) key: Vec<u8>,
    /// It, prepared as blocks of so many bytes.
    pub(super) blocks: Option<(u64, Rc<Prepared>)>,
}

impl Engine {
    pub(super) fn register(&mut self, id: RegionId, region: &Region) -> Result<(), Error> {
        let memory = memory_of(region.kind(), id).ok_or(Error::MemoryKind(region.kind().name()))?;
        // Nothing of it can ever be moved, and NIXL takes no empty memory.
        if region.is_empty() {
            return Ok(());
        }
        let refused = |what: &str, status| {
            Error::Limit(format!(
                "NIXL's plugin {} {what} {region:?}: {status}{}",
                self.options.plugin,
                advice(region)
            ))
        };
        let registered =
            Registered::region(&self.agent, region, memory).map_err(|status| match region.kind() {
                Kind::Host => refused("cannot register", status),
                // There is no telling whether the plugin knows such memory at all.
                kind => Error::MemoryKind(kind.name()),
            })?;
        let key = self.agent.key_of(&registered).map_err(|status| refused("has no key for", status))?;
        if key.is_empty() || key.len() > MAX_BLOB {
            return Err(Error::Limit(format!("NIXL's key for {region:?} has {} bytes", key.len())));
        }
        let at = At { base: registered.base(), len: region.len(), kind: memory.kind, device: memory.device };
        let (region, registered) = (region.clone(), Rc::new(registered));
        self.mapped.insert(id, Mapped { region, registered, at, key, blocks: None });
        Ok(())
    }

    pub(super) fn deregister(&mut self, id: RegionId) {
        self.mapped.remove(&id);
        let told: Vec<PeerId> = self
            .peers
            .iter_mut()
            .filter_map(|(peer, known)| known.told.remove(&id).then_some(*peer))
            .collect();
        for peer in told {
            self.say(peer, &Message::Forget(id));
        }
    }

    /// Prepares a region as blocks.
    pub(super) fn prepare(&mut self, id: RegionId, len: u64) -> Result<(), Error> {
        let mapped = self.mapped.get_mut(&id).ok_or(Error::UnknownRegion(id))?;
        if len == 0 || len > REQUEST_BYTES || mapped.at.len / len > MAX_BLOCKS {
            return Err(Error::Limit(format!(
                "blocks of {len} bytes of {:?}: have 1 byte to 4 MiB in a block, and at most 1 Mi of them",
                mapped.region
            )));
        }
        let blocks = blocks_of(0, mapped.at.len, len);
        let prepared = Prepared::local(&self.agent, &mapped.registered, blocks)
            .map_err(|status| Error::Limit(format!("NIXL cannot prepare {:?}: {status}", mapped.region)))?;
        mapped.blocks = Some((len, Rc::new(prepared)));
        Ok(())
    }
}

/// The whole blocks of `len` bytes in so many bytes from `base` on.
pub(super) fn blocks_of(base: u64, bytes: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..bytes / len).map(move |number| (base + number * len, len))
}

/// What to do about a registration that failed, if that can be told.
fn advice(region: &Region) -> String {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return String::new() };
    if region.kind() == Kind::Host && soft < region.len() {
        format!(
            "; this process may lock {soft} bytes only: raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity, or the \
             capability IPC_LOCK)"
        )
    } else {
        String::new()
    }
}
