//! An opened NIXL: its functions, what is known of its version, and which of the later functions it has.

use std::ffi::CStr;
use std::ops::Deref;
use std::path::Path;

use kvferry_dynlib::{Binding, Bound, Candidate, Handles, NotFound, Refusal, Zeroable};

use crate::{Nixl, NixlLater, Version, nixl_capi_agent_config_s, nixl_capi_xfer_telemetry_s};

/// A loaded NIXL. [`Bound::file`] tells which.
pub type Library = Bound<Capi>;

/// The functions of a loaded NIXL. Those that every supported version has are called right on it.
pub struct Capi {
    nixl: Nixl,
    later: NixlLater,
    version: Version,
}

impl Capi {
    /// Functions that some supported versions lack: ask each before the call.
    pub fn later(&self) -> &NixlLater {
        &self.later
    }

    /// What could be found out: the C API has no call that tells.
    pub fn version(&self) -> &Version {
        &self.version
    }
}

impl Deref for Capi {
    type Target = Nixl;

    fn deref(&self) -> &Nixl {
        &self.nixl
    }
}

impl Binding for Capi {
    const LIBRARY: &'static str = "NIXL (libnixl_capi)";
    const REMEDY: &'static str =
        "install NIXL 1.0 or later (pip: nixl), or name the file of its libnixl_capi.so";
    const MARK: &'static CStr = c"nixl_capi_is_stub";

    fn bind(handles: &Handles) -> Result<Self, Refusal> {
        let missing = |error: libloading::Error| Refusal::missing(&error);
        // SAFETY: the library has a function that only NIXL's C API has, so its functions are those of that API's header.
        let nixl = unsafe { Nixl::from_library(handles.library()?) }.map_err(missing)?;
        // SAFETY: takes nothing and answers a constant. It is the one call that a stub survives.
        if unsafe { nixl.nixl_capi_is_stub() } {
            return Err(Refusal::Stub);
        }
        // SAFETY: as for the first.
        let later = unsafe { NixlLater::from_library(handles.library()?) }.map_err(missing)?;
        let version = Version::of(handles.file(), later.nixl_capi_release_mem_view.is_ok());
        version.check()?;
        Ok(Self { nixl, later, version })
    }
}

// SAFETY: booleans and integers.
unsafe impl Zeroable for nixl_capi_agent_config_s {}
// SAFETY: integers.
unsafe impl Zeroable for nixl_capi_xfer_telemetry_s {}

/// Opens this file and no other.
///
/// # Errors
/// It cannot be used: why.
pub fn open(file: &Path) -> Result<Library, NotFound> {
    open_any(&[Candidate::from(file)])
}

/// Opens the first candidate that can be used; [`crate::candidates`] are the usual ones.
///
/// # Errors
/// None can: with all that was tried.
pub fn open_any(candidates: &[Candidate]) -> Result<Library, NotFound> {
    kvferry_dynlib::open_any(candidates)
}
