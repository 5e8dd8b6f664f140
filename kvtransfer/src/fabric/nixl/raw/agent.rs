//! An agent with one backend: a plugin that was created with its parameters.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

use kvferry_nixl_sys::{
    Library, NIXL_CAPI_THREAD_SYNC_NONE, Padded, nixl_capi_agent_config_s, nixl_capi_agent_t,
    nixl_capi_backend_t, nixl_capi_opt_args_t,
};

use super::lists::RegList;
use super::plugins::Params;
use super::{NOTHING, Registered, Status, checked};

/// Which threads an agent has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Threads {
    /// Whether NIXL makes one that looks after what peers do here.
    pub(in super::super) progress: bool,
    /// How often it looks even if nothing wakes it, in microseconds.
    pub(in super::super) every: u64,
}

/// An agent's handle, destroyed when nothing uses it any more.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) nixl: Arc<Library>,
    pub(super) agent: nixl_capi_agent_t,
}

impl Handle {
    pub(super) fn open(
        nixl: Arc<Library>,
        name: &CStr,
        threads: Threads,
        telemetry: bool,
    ) -> Result<Self, Status> {
        let mut config = Padded::<nixl_capi_agent_config_s>::zeroed();
        config.enable_prog_thread = threads.progress;
        config.pthr_delay_us = threads.every;
        config.num_workers = 1;
        // All calls come from this thread.
        config.thread_sync = NIXL_CAPI_THREAD_SYNC_NONE;
        config.capture_telemetry = telemetry;
        let mut agent = null_mut();
        // SAFETY: a terminated name, a configuration of this header with spare zeroes, and a place for the handle.
        checked(unsafe {
            nixl.nixl_capi_create_configured_agent(name.as_ptr(), config.as_ptr(), &raw mut agent)
        })?;
        Ok(Self { nixl, agent })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: whatever was made from it has kept it alive, and is gone.
        let status = unsafe { self.nixl.nixl_capi_destroy_agent(self.agent) };
        debug_assert!(checked(status).is_ok(), "what was created can be destroyed: {status}");
    }
}

/// The backend, and the options that name it to calls that could take another.
#[derive(Debug)]
pub(super) struct Plugged {
    pub(super) handle: Handle,
    pub(super) name: CString,
    backend: nixl_capi_backend_t,
    pub(super) args: nixl_capi_opt_args_t,
}

impl Drop for Plugged {
    fn drop(&mut self) {
        let nixl = &self.handle.nixl;
        // SAFETY: both were made by `Agent::open` for this agent, which lives on until after this, and nobody uses them.
        let destroyed = unsafe { nixl.nixl_capi_destroy_opt_args(self.args) };
        // SAFETY: as above. This lets go of the handle; the agent destroys the backend itself.
        let backend = unsafe { nixl.nixl_capi_destroy_backend(self.backend) };
        debug_assert!(checked(destroyed).is_ok() && checked(backend).is_ok(), "they were made once");
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(in super::super) struct Agent(pub(super) Rc<Plugged>);

impl Agent {
    /// An agent of that name with a backend of that plugin.
    ///
    /// # Errors
    /// What NIXL says: `true` with it if the agent stood, and it was the plugin.
    pub(in super::super) fn open(
        nixl: Arc<Library>,
        name: &CStr,
        plugin: &CStr,
        params: &Params,
        threads: Threads,
        telemetry: bool,
    ) -> Result<Self, (Status, bool)> {
        let handle = Handle::open(nixl, name, threads, telemetry).map_err(|status| (status, false))?;
        let (nixl, mut backend, mut args) = (Arc::clone(&handle.nixl), null_mut(), null_mut());
        let created = params.with(&nixl, |params| {
            // SAFETY: a live agent, a terminated name, live parameters, and a place for the handle.
            unsafe { nixl.nixl_capi_create_backend(handle.agent, plugin.as_ptr(), params, &raw mut backend) }
        });
        created.map_err(|status| (status, true))?;
        // SAFETY: a place for the handle.
        checked(unsafe { nixl.nixl_capi_create_opt_args(&raw mut args) }).map_err(|status| (status, true))?;
        let plugged = Plugged { handle, name: name.into(), backend, args };
        // SAFETY: live options and a live backend of this agent.
        let added = unsafe { nixl.nixl_capi_opt_args_add_backend(plugged.args, plugged.backend) };
        checked(added).map_err(|status| (status, true))?;
        Ok(Self(Rc::new(plugged)))
    }

    /// The agent's own name.
    pub(in super::super) fn name(&self) -> &CStr {
        &self.0.name
    }

    fn nixl(&self) -> &Library {
        &self.0.handle.nixl
    }

    /// Where peers reach it: no memory is named in it.
    ///
    /// # Errors
    /// What NIXL says: the plugin reaches no peers, for one.
    pub(in super::super) fn connection_info(&self) -> Result<Vec<u8>, Status> {
        // Of a plugin that reaches no peers there is none at all; asked for no memory, NIXL would say nothing and not fail.
        let (mut data, mut len) = (null_mut::<c_void>(), 0);
        // SAFETY: a live agent, and places for a pointer and a length.
        checked(unsafe {
            self.nixl().nixl_capi_get_local_md(self.0.handle.agent, &raw mut data, &raw mut len)
        })?;
        // SAFETY: so many bytes were written there, for the caller to free.
        drop(unsafe { taken(data.cast(), len) });
        let nothing = RegList::new(self.nixl(), kvferry_nixl_sys::NIXL_CAPI_MEM_DRAM)?;
        self.partial_metadata(&nothing)
    }

    /// What opens registered memory to a peer that has the [`connection_info`](Self::connection_info).
    ///
    /// # Errors
    /// What NIXL says.
    pub(in super::super) fn key_of(&self, registered: &Registered) -> Result<Vec<u8>, Status> {
        self.partial_metadata(&registered.list()?)
    }

    fn partial_metadata(&self, list: &RegList<'_>) -> Result<Vec<u8>, Status> {
        let (plugged, mut data, mut len) = (&self.0, null_mut::<c_void>(), 0);
        // SAFETY: a live agent, list and options, and places for a pointer and a length.
        checked(unsafe {
            self.nixl().nixl_capi_get_local_partial_md(
                plugged.handle.agent,
                list.handle(),
                &raw mut data,
                &raw mut len,
                plugged.args,
            )
        })?;
        // SAFETY: so many bytes were written there, for the caller to free.
        Ok(unsafe { taken(data.cast(), len) })
    }

    /// Takes in what a peer has given out. Returns the name of the agent that it is of.
    ///
    /// # Errors
    /// What NIXL says: it is nothing of NIXL's, or contradicts what is known of that agent.
    pub(in super::super) fn load(&self, metadata: &[u8]) -> Result<String, Status> {
        let mut name: *mut c_char = null_mut();
        // SAFETY: a live agent, bytes that live during the call, and a place for the name. NIXL parses with bounds; what is
        // inside goes on to the plugin, which believes it: callers have it from a peer that has shown who it is.
        checked(unsafe {
            self.nixl().nixl_capi_load_remote_md(
                self.0.handle.agent,
                metadata.as_ptr().cast(),
                metadata.len(),
                &raw mut name,
            )
        })?;
        if name.is_null() {
            return Err(NOTHING);
        }
        // SAFETY: a terminated string, which is the caller's.
        let len = unsafe { CStr::from_ptr(name) }.to_bytes().len();
        // SAFETY: as above; it is not used after.
        let bytes = unsafe { taken(name.cast(), len) };
        String::from_utf8(bytes).map_err(|_| NOTHING)
    }

    /// Makes the way to a peer whose connection information was loaded.
    ///
    /// # Errors
    /// What NIXL says.
    pub(in super::super) fn connect(&self, peer: &CStr) -> Result<(), Status> {
        // SAFETY: a live agent and options, a terminated name.
        checked(unsafe {
            self.nixl().nixl_capi_agent_make_connection(self.0.handle.agent, peer.as_ptr(), self.0.args)
        })
    }

    /// Forgets a peer, the way to it and all that was loaded from it. `requests` tells how many of its requests there are:
    /// with any left, nothing is done, for NIXL would free them behind our back.
    ///
    /// # Errors
    /// What NIXL says: it knows none of that name.
    pub(in super::super) fn forget(&self, peer: &CStr, requests: usize) -> Result<(), Status> {
        if requests > 0 {
            return Err(NOTHING);
        }
        // SAFETY: a live agent, a terminated name.
        checked(unsafe { self.nixl().nixl_capi_invalidate_remote_md(self.0.handle.agent, peer.as_ptr()) })
    }

    /// Sends a peer a message, of any bytes.
    ///
    /// # Errors
    /// What NIXL says.
    pub(in super::super) fn notify(&self, peer: &CStr, message: &[u8]) -> Result<(), Status> {
        let (handle, bytes) = (&self.0.handle, message.as_ptr().cast());
        // SAFETY: a live agent and options, a terminated name, and bytes that live during the call (NIXL copies them).
        checked(unsafe {
            self.nixl().nixl_capi_gen_notif(handle.agent, peer.as_ptr(), bytes, message.len(), self.0.args)
        })
    }

    /// The messages that have come since, each with the name that its sender goes by. Lets the backend work, too.
    ///
    /// # Errors
    /// What NIXL says: the plugin has no messages, for one.
    pub(in super::super) fn notifications(&self) -> Result<Vec<(String, Vec<u8>)>, Status> {
        let nixl = self.nixl();
        let mut map = null_mut();
        // SAFETY: a place for the handle.
        checked(unsafe { nixl.nixl_capi_create_notif_map(&raw mut map) })?;
        // SAFETY: a live agent, map and options.
        let got = checked(unsafe { nixl.nixl_capi_get_notifs(self.0.handle.agent, map, self.0.args) });
        let read = got.and_then(|()| {
            let mut senders = 0;
            // SAFETY: a live map and a place for a number.
            checked(unsafe { nixl.nixl_capi_notif_map_size(map, &raw mut senders) })?;
            let mut all = Vec::new();
            for sender in 0..senders {
                let mut name: *const c_char = null();
                // SAFETY: a live map, a number below its size, and a place for a pointer.
                checked(unsafe { nixl.nixl_capi_notif_map_get_agent_at(map, sender, &raw mut name) })?;
                let mut count = 0;
                // SAFETY: a live map, a name of its own, and a place for a number.
                checked(unsafe { nixl.nixl_capi_notif_map_get_notifs_size(map, name, &raw mut count) })?;
                // SAFETY: a terminated string of the map's, which lives until the map is destroyed.
                let from = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
                for number in 0..count {
                    let (mut data, mut len) = (null::<c_void>(), 0);
                    // SAFETY: a live map, a name and a number of its own, and places for a pointer and a length.
                    checked(unsafe {
                        nixl.nixl_capi_notif_map_get_notif(map, name, number, &raw mut data, &raw mut len)
                    })?;
                    // SAFETY: so many bytes of the map's, which lives until after they are copied.
                    let message = unsafe { bytes_at(data.cast(), len) }.to_vec();
                    all.push((from.clone(), message));
                }
            }
            Ok(all)
        });
        // SAFETY: it was made above, and is not used after.
        unsafe { nixl.nixl_capi_destroy_notif_map(map) };
        read
    }
}

/// # Safety
/// `len` bytes are there if it is not null, and live as long as the slice.
unsafe fn bytes_at<'a>(data: *const u8, len: usize) -> &'a [u8] {
    // SAFETY: the caller's.
    if data.is_null() || len == 0 { &[] } else { unsafe { slice::from_raw_parts(data, len) } }
}

/// Copies bytes that the library has allocated for its caller, and frees them.
///
/// # Safety
/// They came from the library just now, `len` of them, and nobody uses them after.
unsafe fn taken(data: *mut u8, len: usize) -> Vec<u8> {
    // SAFETY: the caller's.
    let bytes = unsafe { bytes_at(data, len) }.to_vec();
    // SAFETY: the library allocates by `malloc` what it hands to its caller.
    unsafe { libc::free(data.cast()) };
    bytes
}
