//! An opened UCX: its functions, its version, and which of the later functions it has.

use std::ffi::{CStr, c_uint};
use std::fmt;
use std::ops::Deref;
use std::path::Path;

use kvferry_dynlib::{Binding, Bound, Candidate, Handles, NotFound, Refusal};

use crate::{Ucp, UcpLater, ucs_status_t};

/// The API version to state to `ucp_init_version`: (major, minor) of the oldest UCX that is supported. UCX keeps its
/// promises to callers of older minor versions.
pub const API: (c_uint, c_uint) = (OLDEST.major, OLDEST.minor);

/// The oldest UCX that is loaded.
pub const OLDEST: Version = Version { major: 1, minor: 13, release: 0 };

const WANTED: &str = "1.13 or a later 1.x";

/// A loaded UCX. [`Bound::file`] tells which.
pub type Library = Bound<Ucx>;

/// A version of UCX. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Another major version is another API.
    pub major: c_uint,
    /// Grows with every feature release.
    pub minor: c_uint,
    /// Grows with every bug-fix release.
    pub release: c_uint,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// The functions of a loaded UCX. Those that every supported version has are called right on it.
pub struct Ucx {
    ucp: Ucp,
    later: UcpLater,
    version: Version,
}

impl Ucx {
    /// Functions that some supported versions lack: ask each before the call. At least one of
    /// `ucp_rkey_buffer_release` and `ucp_memh_buffer_release` is there to free a packed remote key.
    pub fn later(&self) -> &UcpLater {
        &self.later
    }

    /// As the library states it.
    pub fn version(&self) -> Version {
        self.version
    }

    /// UCX's words for a status. Any number will do: one it does not know is shown as a number.
    pub fn status_text(&self, status: ucs_status_t) -> String {
        // SAFETY: takes any number and answers with a terminated string that is never freed.
        let text = unsafe { CStr::from_ptr(self.ucp.ucs_status_string(status)) };
        text.to_string_lossy().into_owned()
    }
}

impl Deref for Ucx {
    type Target = Ucp;

    fn deref(&self) -> &Ucp {
        &self.ucp
    }
}

impl Binding for Ucx {
    const LIBRARY: &'static str = "UCX (libucp)";
    const REMEDY: &'static str = "install UCX 1.13 or later (Debian and Ubuntu: libucx0; Fedora: ucx; pip: libucx-cu12, \
        which has no RDMA, or nixl), or name the file of its libucp.so.0";
    const MARK: &'static CStr = c"ucp_get_version";

    fn bind(handles: &Handles) -> Result<Self, Refusal> {
        let missing = |error: libloading::Error| Refusal::missing(&error);
        // SAFETY: the library has UCP's own version function, so its functions are those of UCP's headers.
        let ucp = unsafe { Ucp::from_library(handles.library()?) }.map_err(missing)?;
        let version = version_of(&ucp);
        if version.major != OLDEST.major || version < OLDEST {
            return Err(Refusal::Version { found: version.to_string(), wanted: WANTED });
        }
        // SAFETY: as above.
        let later = unsafe { UcpLater::from_library(handles.library()?) }.map_err(missing)?;
        if let (Err(missing), Err(_)) = (&later.ucp_rkey_buffer_release, &later.ucp_memh_buffer_release) {
            return Err(Refusal::missing(missing));
        }
        Ok(Self { ucp, later, version })
    }
}

fn version_of(ucp: &Ucp) -> Version {
    let (mut major, mut minor, mut release) = (0, 0, 0);
    // SAFETY: three places for three numbers.
    unsafe { ucp.ucp_get_version(&raw mut major, &raw mut minor, &raw mut release) };
    Version { major, minor, release }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |minor, release| Version { major: 1, minor, release };
        assert!(version(9, 0) < OLDEST);
        assert!(version(13, 1) > OLDEST);
        assert!(version(22, 0) > version(13, 1));
        assert_eq!(version(22, 0).to_string(), "1.22.0");
    }
}
