//! Registered memory, files and objects of this side.

use std::os::fd::{AsRawFd, OwnedFd};

use kvferry_nixl_sys::{
    NIXL_CAPI_MEM_DRAM, NIXL_CAPI_MEM_FILE, NIXL_CAPI_MEM_OBJECT, NIXL_CAPI_MEM_VRAM, nixl_capi_mem_type_t,
};

use super::lists::RegList;
use super::{Agent, Status, checked};
use crate::RegionId;
use crate::memory::{Kind, Region};

/// What memory is to NIXL: its kind, and the number of its device, file or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Memory {
    pub(in super::super) kind: nixl_capi_mem_type_t,
    pub(in super::super) device: u64,
}

/// What a region of that kind and number is to NIXL, if it has a word for it. The host is no device, so the number is free
/// to tell regions apart: NIXL keeps what it has once learnt of a peer's memory, and looks for it by kind, device and place.
pub(in super::super) const fn memory_of(kind: Kind, region: RegionId) -> Option<Memory> {
    match kind {
        Kind::Host => Some(Memory { kind: NIXL_CAPI_MEM_DRAM, device: region.0 as u64 }),
        // NIXL does not tell vendors apart: what its plugin was built for is what device memory is.
        Kind::Cuda(device) | Kind::Rocm(device) | Kind::Xpu(device) => {
            Some(Memory { kind: NIXL_CAPI_MEM_VRAM, device: device.0 as u64 })
        }
        Kind::Tpu(_) => None,
    }
}

/// What stays where it is for as long as NIXL knows it.
#[derive(Debug)]
enum Keep {
    Region(Region),
    File(#[expect(dead_code, reason = "kept, not read")] OwnedFd),
    /// An object of a store, by its key.
    Object(String),
}

/// See the module.
#[derive(Debug)]
pub(in super::super) struct Registered {
    agent: Agent,
    keep: Keep,
    pub(in super::super) memory: Memory,
    base: usize,
    len: usize,
    /// Whether NIXL knows it.
    known: bool,
}

impl Registered {
    /// Registers a region, which has at least one byte.
    ///
    /// # Errors
    /// What NIXL says: the plugin does not reach such memory, or the machine does not allow it.
    pub(in super::super) fn region(agent: &Agent, region: &Region, memory: Memory) -> Result<Self, Status> {
        let base = region.address(0, region.len()).expect("a region holds all of itself");
        let base = base.as_ptr().expose_provenance();
        let len = usize::try_from(region.len()).expect("it is mapped, so its length is a usize");
        Self::new(agent, Keep::Region(region.clone()), memory, base, len)
    }

    /// Registers a file of so many bytes.
    ///
    /// # Errors
    /// What NIXL says.
    pub(in super::super) fn file(agent: &Agent, file: OwnedFd, len: usize) -> Result<Self, Status> {
        let device = u64::try_from(file.as_raw_fd()).expect("an open file has a number");
        let memory = Memory { kind: NIXL_CAPI_MEM_FILE, device };
        Self::new(agent, Keep::File(file), memory, 0, len)
    }

    /// Registers an object under a number of the caller's.
    ///
    /// # Errors
    /// What NIXL says.
    pub(in super::super) fn object(
        agent: &Agent,
        key: String,
        number: u64,
        len: usize,
    ) -> Result<Self, Status> {
        let memory = Memory { kind: NIXL_CAPI_MEM_OBJECT, device: number };
        Self::new(agent, Keep::Object(key), memory, 0, len)
    }

    fn new(agent: &Agent, keep: Keep, memory: Memory, base: usize, len: usize) -> Result<Self, Status> {
        let mut registered = Self { agent: agent.clone(), keep, memory, base, len, known: false };
        let plugged = &registered.agent.0;
        let list = registered.list()?;
        // SAFETY: a live agent, list and options. What is named stays where it is for as long as `keep` is kept, which is
        // until after it is deregistered.
        checked(unsafe {
            plugged.handle.nixl.nixl_capi_register_mem(plugged.handle.agent, list.handle(), plugged.args)
        })?;
        drop(list);
        registered.known = true;
        Ok(registered)
    }

    /// It alone, as a list.
    pub(super) fn list(&self) -> Result<RegList<'_>, Status> {
        let mut list = RegList::new(&self.agent.0.handle.nixl, self.memory.kind)?;
        let meta = match &self.keep {
            Keep::Object(key) => key.as_bytes(),
            Keep::Region(_) | Keep::File(_) => &[],
        };
        list.add(self.base, self.len, self.memory.device, meta)?;
        Ok(list)
    }

    /// Where it begins, as NIXL names it.
    pub(in super::super) const fn base(&self) -> u64 {
        self.base as u64
    }

    /// Where so many bytes from `offset` on lie. Of memory they must lie in it; files grow.
    pub(super) fn at(&self, offset: u64, len: u64) -> Option<usize> {
        let end = offset.checked_add(len)?;
        if matches!(self.keep, Keep::Region(_)) && end > self.len as u64 {
            return None;
        }
        self.base.checked_add(usize::try_from(offset).ok()?)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.known {
            return;
        }
        let plugged = &self.agent.0;
        // Without a list it stays known to NIXL, and its memory is leaked below, not taken from under it.
        let gone = self.list().and_then(|list| {
            // SAFETY: a live agent, list and options; it was registered with them once; requests that use it would have
            // kept it.
            checked(unsafe {
                plugged.handle.nixl.nixl_capi_deregister_mem(
                    plugged.handle.agent,
                    list.handle(),
                    plugged.args,
                )
            })
        });
        debug_assert!(gone.is_ok(), "what is registered can be let go: {gone:?}");
        if gone.is_err()
            && let Keep::Region(region) = &self.keep
        {
            std::mem::forget(region.clone());
        }
    }
}
