//! A context: UCX with its settings, and the devices it has found.

use std::ffi::CString;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use kvferry_ucx_sys::{
    API, Library, Padded, UCP_ATTR_FIELD_MEMORY_TYPES, UCP_FEATURE_AM, UCP_FEATURE_RMA, UCP_FEATURE_WAKEUP,
    UCP_PARAM_FIELD_FEATURES, UCS_ERR_NO_ELEM, ucp_config_t, ucp_context_attr_t, ucp_context_h, ucp_params_t,
    ucs_memory_type,
};

use super::checked;
use super::printed::printed;

/// A setting, by its name without `UCX_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Setting {
    pub(in super::super) name: String,
    pub(in super::super) value: String,
    /// Whether versions that do not know it shall be refused.
    pub(in super::super) needed: bool,
}

#[derive(Debug)]
pub(in super::super) struct Context {
    pub(super) ucx: Arc<Library>,
    pub(super) handle: ucp_context_h,
}

impl Context {
    /// Opens UCX with the environment's settings, changed by `settings` in order.
    ///
    /// # Errors
    /// What could not be done, in words.
    pub(in super::super) fn open(ucx: Arc<Library>, settings: &[Setting]) -> Result<Self, String> {
        let mut config = null_mut();
        // SAFETY: a place for the handle; no prefix and no file are asked for.
        checked(unsafe { ucx.ucp_config_read(null(), null(), &raw mut config) })
            .map_err(|status| format!("its environment (UCX_...) cannot be read: {}", status.text(&ucx)))?;
        let opened = configure(&ucx, config, settings).and_then(|()| init(&ucx, config));
        // SAFETY: it was read above, and is not used after.
        unsafe { ucx.ucp_config_release(config) };
        Ok(Self { handle: opened?, ucx })
    }

    /// Whether memory of that type can be reached.
    pub(in super::super) fn has_memory(&self, kind: ucs_memory_type) -> bool {
        let mut attributes = Padded::<ucp_context_attr_t>::zeroed();
        attributes.field_mask = u64::from(UCP_ATTR_FIELD_MEMORY_TYPES);
        // SAFETY: a live context, and a struct to fill in.
        let status = unsafe { self.ucx.ucp_context_query(self.handle, attributes.as_mut_ptr()) };
        checked(status).is_ok() && attributes.memory_types & (1 << kind) != 0
    }

    /// What it has found, in UCX's words.
    pub(in super::super) fn describe(&self) -> String {
        // SAFETY: a live context and an open stream.
        printed(|stream| unsafe { self.ucx.ucp_context_print_info(self.handle, stream) })
    }

    pub(in super::super) fn ucx(&self) -> &Library {
        &self.ucx
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: whatever was made from it has kept it alive, and is gone.
        unsafe { self.ucx.ucp_cleanup(self.handle) };
    }
}

fn configure(ucx: &Library, config: *mut ucp_config_t, settings: &[Setting]) -> Result<(), String> {
    for Setting { name, value, needed } in settings {
        let refused = |why: &str| format!("it does not take UCX_{name}={value}: {why}");
        let text = |text: &str| CString::new(text).map_err(|_| refused("it holds a zero byte"));
        let (name, value) = (text(name)?, text(value)?);
        // SAFETY: a live configuration and two terminated strings.
        let status = unsafe { ucx.ucp_config_modify(config, name.as_ptr(), value.as_ptr()) };
        if status != UCS_ERR_NO_ELEM || *needed {
            checked(status).map_err(|status| refused(&status.text(ucx)))?;
        }
    }
    Ok(())
}

fn init(ucx: &Library, config: *const ucp_config_t) -> Result<ucp_context_h, String> {
    let mut params = Padded::<ucp_params_t>::zeroed();
    params.field_mask = u64::from(UCP_PARAM_FIELD_FEATURES);
    params.features = u64::from(UCP_FEATURE_RMA | UCP_FEATURE_AM | UCP_FEATURE_WAKEUP);
    let mut context = null_mut();
    // SAFETY: a live configuration, parameters whose mask names what is set, and a place for the handle.
    let status = unsafe { ucx.ucp_init_version(API.0, API.1, params.as_ptr(), config, &raw mut context) };
    checked(status).map_err(|status| {
        format!("it finds no transport that it can use with these settings: {}", status.text(ucx))
    })?;
    Ok(context)
}
