//! Registered memory of this side, and the keys to a peer's.

use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::slice;

use kvferry_ucx_sys::{
    Padded, UCP_MEM_MAP_PARAM_FIELD_ADDRESS, UCP_MEM_MAP_PARAM_FIELD_LENGTH,
    UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE, ucp_mem_h, ucp_mem_map_params_t, ucp_memh_buffer_release_params_t,
    ucp_rkey_h, ucs_memory_type,
};

use super::worker::Handles;
use super::{Context, Status, checked};
use crate::memory::Region;

/// A registered region, kept for as long as UCX knows it.
#[derive(Debug)]
pub(in super::super) struct Mapped {
    context: Rc<Context>,
    pub(super) region: Region,
    pub(super) kind: ucs_memory_type,
    pub(super) handle: ucp_mem_h,
}

impl Mapped {
    /// Registers a region, which has at least one byte.
    ///
    /// # Errors
    /// The machine, or the device, does not allow it.
    pub(in super::super) fn new(
        context: &Rc<Context>,
        region: &Region,
        kind: ucs_memory_type,
    ) -> Result<Self, Status> {
        let mut params = Padded::<ucp_mem_map_params_t>::zeroed();
        params.field_mask = u64::from(
            UCP_MEM_MAP_PARAM_FIELD_ADDRESS
                | UCP_MEM_MAP_PARAM_FIELD_LENGTH
                | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE,
        );
        let base = region.address(0, region.len()).expect("a region holds all of itself");
        params.address = base.as_ptr().cast();
        params.length = usize::try_from(region.len()).expect("it is mapped, so its length is a usize");
        params.memory_type = kind;
        let mut handle = null_mut();
        // SAFETY: a live context and a place for the handle. The memory stays as long as `region` is kept, which is until
        // after `ucp_mem_unmap`.
        checked(unsafe { context.ucx.ucp_mem_map(context.handle, params.as_ptr(), &raw mut handle) })?;
        Ok(Self { context: Rc::clone(context), region: region.clone(), kind, handle })
    }

    pub(in super::super) fn region(&self) -> &Region {
        &self.region
    }

    /// Where it begins, as peers name it.
    pub(in super::super) fn base(&self) -> u64 {
        let base = self.region.address(0, 0).expect("every region has a begin");
        base.as_ptr().expose_provenance() as u64
    }

    /// What opens it to a peer.
    ///
    /// # Errors
    /// What UCX says.
    pub(in super::super) fn pack(&self) -> Result<Vec<u8>, Status> {
        let (ucx, mut buffer, mut length) = (&self.context.ucx, null_mut(), 0);
        // SAFETY: a live context, memory registered with it, and places for a pointer and a length.
        checked(unsafe {
            ucx.ucp_rkey_pack(self.context.handle, self.handle, &raw mut buffer, &raw mut length)
        })?;
        // SAFETY: UCX has written so many bytes there.
        let packed = unsafe { slice::from_raw_parts(buffer.cast::<u8>().cast_const(), length) }.to_vec();
        match (&ucx.later().ucp_memh_buffer_release, &ucx.later().ucp_rkey_buffer_release) {
            (Ok(release), _) => {
                let params = Padded::<ucp_memh_buffer_release_params_t>::zeroed();
                // SAFETY: it was packed above, and is not used after.
                unsafe { release(buffer, params.as_ptr()) };
            }
            // SAFETY: as above.
            (_, Ok(release)) => unsafe { release(buffer) },
            _ => unreachable!("one of them was found when the library was opened"),
        }
        Ok(packed)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was registered with this context once; operations that use it would have kept it.
        let status = unsafe { self.context.ucx.ucp_mem_unmap(self.context.handle, self.handle) };
        debug_assert!(checked(status).is_ok(), "what is registered can be let go: {status}");
    }
}

/// What opens a region of a peer, and where that lies over there.
#[derive(Debug)]
pub(in super::super) struct RemoteKey {
    pub(super) handles: Rc<Handles>,
    pub(super) key: NonNull<kvferry_ucx_sys::ucp_rkey>,
    pub(super) base: u64,
    len: u64,
}

impl RemoteKey {
    pub(super) fn new(handles: &Rc<Handles>, key: ucp_rkey_h, base: u64, len: u64) -> Option<Self> {
        Some(Self { handles: Rc::clone(handles), key: NonNull::new(key)?, base, len })
    }

    /// Bytes of the region that it opens.
    pub(in super::super) const fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for RemoteKey {
    fn drop(&mut self) {
        // SAFETY: it was unpacked once for this worker, which is alive; operations that use it would have kept it.
        unsafe { self.handles.ucx().ucp_rkey_destroy(self.key.as_ptr()) };
    }
}
