//! This side's regions, as UCX knows them.

use std::rc::Rc;

use kvferry_ucx_sys::{
    UCS_MEMORY_TYPE_CUDA, UCS_MEMORY_TYPE_HOST, UCS_MEMORY_TYPE_ROCM, UCS_MEMORY_TYPE_ZE_DEVICE,
    ucs_memory_type,
};
use nix::sys::resource::{Resource, getrlimit};

use super::Engine;
use crate::fabric::ucx::message::Message;
use crate::fabric::ucx::raw::Mapped;
use crate::memory::{Kind, Region};
use crate::{Error, PeerId, RegionId};

impl Engine {
    pub(super) fn register(&mut self, id: RegionId, region: &Region) -> Result<(), Error> {
        let unreachable = Error::MemoryKind(region.kind().name());
        let kind = memory_type(region.kind()).ok_or(unreachable.clone())?;
        let context = self.worker.context();
        if !context.has_memory(kind) {
            return Err(unreachable);
        }
        // Nothing of it can ever be moved, and UCX takes no empty memory.
        if region.is_empty() {
            return Ok(());
        }
        // UCX looks at device memory through the context of the thread that registers and copies: this one.
        if let Some(memory) = region.cuda() {
            memory.device().settle()?;
        }
        let mapped = Mapped::new(context, region, kind).map_err(|status| {
            let why = status.text(self.worker.ucx());
            Error::Limit(format!("UCX cannot register {region:?}: {why}{}", advice(region)))
        })?;
        self.mapped.insert(id, Rc::new(mapped));
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
}

/// UCX's number for a kind of memory, if it has one.
const fn memory_type(kind: Kind) -> Option<ucs_memory_type> {
    match kind {
        Kind::Host => Some(UCS_MEMORY_TYPE_HOST),
        Kind::Cuda(_) => Some(UCS_MEMORY_TYPE_CUDA),
        Kind::Rocm(_) => Some(UCS_MEMORY_TYPE_ROCM),
        Kind::Xpu(_) => Some(UCS_MEMORY_TYPE_ZE_DEVICE),
        Kind::Tpu(_) => None,
    }
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
