//! Plugins: which there are, what they say of themselves, and the parameters that they take.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{null, null_mut};
use std::sync::Arc;

use kvferry_nixl_sys::{Library, nixl_capi_mem_list_t, nixl_capi_params_t, nixl_capi_status_t};

use super::agent::{Handle, Threads};
use super::{Status, checked};

/// Parameters for a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Params(pub(in super::super) Vec<(CString, CString)>);

impl Params {
    /// Runs `call` with them.
    pub(super) fn with(
        &self,
        nixl: &Library,
        call: impl FnOnce(nixl_capi_params_t) -> nixl_capi_status_t,
    ) -> Result<(), Status> {
        let mut params = null_mut();
        // SAFETY: a place for the handle.
        checked(unsafe { nixl.nixl_capi_create_params(&raw mut params) })?;
        let added = self.0.iter().try_for_each(|(key, value)| {
            // SAFETY: live parameters and two terminated strings, which NIXL copies.
            checked(unsafe { nixl.nixl_capi_params_add(params, key.as_ptr(), value.as_ptr()) })
        });
        let called = added.and_then(|()| checked(call(params)));
        // SAFETY: they were made above, and nobody uses them after.
        unsafe { nixl.nixl_capi_destroy_params(params) };
        called
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Known {
    /// The kinds of memory that it moves, in NIXL's words.
    pub(in super::super) memories: Vec<String>,
    /// The parameters that it tells of, and their values if nobody says otherwise.
    pub(in super::super) params: Vec<(String, String)>,
}

const NO_THREADS: Threads = Threads { progress: false, every: 0 };

/// The plugins that lie in NIXL's folder. Whether they are of any use, that does not say.
///
/// # Errors
/// What NIXL says.
pub(in super::super) fn listed(nixl: &Arc<Library>) -> Result<Vec<String>, Status> {
    let handle = Handle::open(Arc::clone(nixl), c"kvferry", NO_THREADS, false)?;
    let mut list = null_mut();
    // SAFETY: a live agent and a place for the handle.
    checked(unsafe { nixl.nixl_capi_get_available_plugins(handle.agent, &raw mut list) })?;
    let mut count = 0;
    // SAFETY: a live list and a place for a number.
    let counted = checked(unsafe { nixl.nixl_capi_string_list_size(list, &raw mut count) });
    let names = counted.and_then(|()| {
        let name = |at| {
            let mut name: *const c_char = null();
            // SAFETY: a live list, a number below its size, and a place for a pointer.
            checked(unsafe { nixl.nixl_capi_string_list_get(list, at, &raw mut name) })?;
            // SAFETY: a terminated string of the list's, which lives until after it is copied.
            Ok(unsafe { text(name) })
        };
        (0..count).map(name).collect()
    });
    // SAFETY: it was made above, and nobody uses it after.
    unsafe { nixl.nixl_capi_destroy_string_list(list) };
    names
}

/// What a plugin says of itself. Loads it.
///
/// # Errors
/// What NIXL says: it is not there, or cannot be loaded.
pub(in super::super) fn known(nixl: &Arc<Library>, plugin: &CStr) -> Result<Known, Status> {
    let handle = Handle::open(Arc::clone(nixl), c"kvferry", NO_THREADS, false)?;
    let (mut mems, mut params) = (null_mut(), null_mut());
    // SAFETY: a live agent, a terminated name, and places for two handles, which are given back below.
    checked(unsafe {
        nixl.nixl_capi_get_plugin_params(handle.agent, plugin.as_ptr(), &raw mut mems, &raw mut params)
    })?;
    let read = memories_of(nixl, mems)
        .and_then(|memories| params_of(nixl, params).map(|params| Known { memories, params }));
    released(nixl, mems, params);
    read
}

fn memories_of(nixl: &Library, list: nixl_capi_mem_list_t) -> Result<Vec<String>, Status> {
    let mut count = 0;
    // SAFETY: a live list and a place for a number.
    checked(unsafe { nixl.nixl_capi_mem_list_size(list, &raw mut count) })?;
    let name = |at| {
        let (mut kind, mut name) = (0, null());
        // SAFETY: a live list, a number below its size, and a place for a number.
        checked(unsafe { nixl.nixl_capi_mem_list_get(list, at, &raw mut kind) })?;
        // SAFETY: a place for a pointer.
        checked(unsafe { nixl.nixl_capi_mem_type_to_string(kind, &raw mut name) })?;
        // SAFETY: a terminated string of the library's own.
        Ok(unsafe { text(name) })
    };
    (0..count).map(name).collect()
}

fn params_of(nixl: &Library, params: nixl_capi_params_t) -> Result<Vec<(String, String)>, Status> {
    let (mut all, mut empty, mut iterator) = (Vec::new(), true, null_mut());
    // SAFETY: live parameters and a place for the answer.
    checked(unsafe { nixl.nixl_capi_params_is_empty(params, &raw mut empty) })?;
    if empty {
        return Ok(all);
    }
    // SAFETY: live parameters and a place for the handle.
    checked(unsafe { nixl.nixl_capi_params_create_iterator(params, &raw mut iterator) })?;
    let mut more = true;
    let read = loop {
        let (mut key, mut value): (*const c_char, *const c_char) = (null(), null());
        // SAFETY: a live iterator, and places for two pointers and an answer.
        let next = unsafe {
            nixl.nixl_capi_params_iterator_next(iterator, &raw mut key, &raw mut value, &raw mut more)
        };
        if let Err(status) = checked(next) {
            break Err(status);
        }
        if key.is_null() || value.is_null() {
            break Ok(());
        }
        // SAFETY: terminated strings of the parameters', which live until after they are copied.
        let key = unsafe { text(key) };
        // SAFETY: as above.
        all.push((key, unsafe { text(value) }));
        if !more {
            break Ok(());
        }
    };
    // SAFETY: it was made above, and nobody uses it after.
    unsafe { nixl.nixl_capi_params_destroy_iterator(iterator) };
    all.sort_unstable();
    read.map(|()| all)
}

/// Gives back what a question about parameters was answered with.
fn released(nixl: &Library, mems: nixl_capi_mem_list_t, params: nixl_capi_params_t) {
    // SAFETY: they came from the library for the caller, who uses them no more.
    unsafe { nixl.nixl_capi_destroy_mem_list(mems) };
    // SAFETY: as above.
    unsafe { nixl.nixl_capi_destroy_params(params) };
}

/// # Safety
/// A terminated string, or null.
unsafe fn text(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
