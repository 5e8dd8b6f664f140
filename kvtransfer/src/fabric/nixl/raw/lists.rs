//! Descriptor lists, as NIXL takes them: of what to register, and of what to move.

use std::ptr::{null, null_mut};

use kvferry_nixl_sys::{Library, nixl_capi_mem_type_t, nixl_capi_reg_dlist_t, nixl_capi_xfer_dlist_t};

use super::{Status, checked};

/// What to register.
#[derive(Debug)]
pub(super) struct RegList<'a> {
    nixl: &'a Library,
    handle: nixl_capi_reg_dlist_t,
}

impl<'a> RegList<'a> {
    pub(super) fn new(nixl: &'a Library, kind: nixl_capi_mem_type_t) -> Result<Self, Status> {
        let mut handle = null_mut();
        // SAFETY: a place for the handle.
        checked(unsafe { nixl.nixl_capi_create_reg_dlist(kind, &raw mut handle) })?;
        Ok(Self { nixl, handle })
    }

    /// Adds memory, a file or an object; `meta` is what its plugin wants to know besides.
    pub(super) fn add(&mut self, base: usize, len: usize, device: u64, meta: &[u8]) -> Result<(), Status> {
        let bytes = if meta.is_empty() { null() } else { meta.as_ptr().cast() };
        // SAFETY: a live list, and bytes that live during the call (NIXL copies them).
        checked(unsafe {
            self.nixl.nixl_capi_reg_dlist_add_desc(self.handle, base, len, device, bytes, meta.len())
        })
    }

    pub(super) const fn handle(&self) -> nixl_capi_reg_dlist_t {
        self.handle
    }
}

impl Drop for RegList<'_> {
    fn drop(&mut self) {
        // SAFETY: it was made once, and nobody uses it any more.
        unsafe { self.nixl.nixl_capi_destroy_reg_dlist(self.handle) };
    }
}

/// What to move.
#[derive(Debug)]
pub(super) struct XferList<'a> {
    nixl: &'a Library,
    handle: nixl_capi_xfer_dlist_t,
}

impl<'a> XferList<'a> {
    pub(super) fn new(nixl: &'a Library, kind: nixl_capi_mem_type_t) -> Result<Self, Status> {
        let mut handle = null_mut();
        // SAFETY: a place for the handle.
        checked(unsafe { nixl.nixl_capi_create_xfer_dlist(kind, &raw mut handle) })?;
        Ok(Self { nixl, handle })
    }

    pub(super) fn add(&mut self, at: usize, len: usize, device: u64) -> Result<(), Status> {
        // SAFETY: a live list.
        checked(unsafe { self.nixl.nixl_capi_xfer_dlist_add_desc(self.handle, at, len, device) })
    }

    pub(super) const fn handle(&self) -> nixl_capi_xfer_dlist_t {
        self.handle
    }
}

impl Drop for XferList<'_> {
    fn drop(&mut self) {
        // SAFETY: it was made once, and nobody uses it any more.
        unsafe { self.nixl.nixl_capi_destroy_xfer_dlist(self.handle) };
    }
}
