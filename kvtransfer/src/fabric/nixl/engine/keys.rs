//! What opens peers' regions. NIXL takes such keys in, and forgets them only with all else that it knows of a peer. So those
//! of regions that are no more stay. They are never used: host memory of each region goes by a device number of its own
//! ([`memory_of`](crate::fabric::nixl::raw::memory_of)), so NIXL takes none for another. Memory of devices cannot be told
//! apart so: when new memory lies where forgotten memory lay, the peer must be parted from and met anew.

use std::rc::Rc;

use super::Engine;
use super::regions::blocks_of;
use crate::fabric::nixl::limits::{MAX_BLOCKS, MAX_STALE};
use crate::fabric::nixl::message::{At, Violation};
use crate::fabric::nixl::raw::{Memory, Prepared};
use crate::memory::MAX_REGIONS;
use crate::{Error, PeerId, RegionId};

impl Engine {
    /// A peer gives out what opens a region of its.
    pub(super) fn learn(
        &mut self,
        id: PeerId,
        region: RegionId,
        at: At,
        key: &[u8],
    ) -> Result<(), Violation> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let Some(name) = &peer.name else { return Ok(()) };
        if peer.keys.len() >= MAX_REGIONS || peer.keys.contains_key(&region) {
            return Err(Violation("more regions than there may be, or one twice"));
        }
        if peer.stale.len() >= MAX_STALE || peer.stale.iter().any(|stale| stale.overlaps(&at)) {
            let why = "it has other memory where it had some, which NIXL does not learn; meet it anew";
            self.lose(id, &Error::Lost(why.into()));
            return Ok(());
        }
        if self.agent.load(key).ok().as_deref() != name.to_str().ok() {
            return Err(Violation("a key that cannot be used"));
        }
        peer.keys.insert(region, at);
        Ok(())
    }

    /// A region of a peer's is no more.
    pub(super) fn unlearn(&mut self, id: PeerId, region: RegionId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.stale.extend(peer.keys.remove(&region));
        peer.blocks.retain(|(of, _), _| *of != region);
    }

    /// A peer's region prepared as blocks of so many bytes, if that can be.
    pub(super) fn blocks_at(&mut self, id: PeerId, region: RegionId, len: u64) -> Option<Rc<Prepared>> {
        let peer = self.peers.get_mut(&id)?;
        if let Some(prepared) = peer.blocks.get(&(region, len)) {
            return Some(Rc::clone(prepared));
        }
        let at = *peer.keys.get(&region)?;
        if at.len / len > MAX_BLOCKS {
            return None;
        }
        let memory = Memory { kind: at.kind, device: at.device };
        let blocks = blocks_of(at.base, at.len, len);
        let prepared = Rc::new(Prepared::remote(&self.agent, peer.name.as_ref()?, memory, blocks).ok()?);
        peer.blocks.insert((region, len), Rc::clone(&prepared));
        Some(prepared)
    }
}
