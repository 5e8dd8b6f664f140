//! An opened driver: its functions, its version, and which of the later functions it has.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::ptr::null;

use kvferry_dynlib::{Binding, Bound, Candidate, Handles, NotFound, Refusal};

use crate::{CUDA_ERROR_STUB_LIBRARY, CUDA_SUCCESS, CUresult, Functions, Later};

/// The oldest driver that is loaded: IPC as it is today began there.
pub const OLDEST: Version = Version { major: 11, minor: 0 };

const WANTED: &str = "11.0 or later";

/// A loaded driver. [`Bound::file`] tells which.
pub type Library = Bound<Driver>;

/// The newest CUDA that a driver speaks. Ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Of CUDA, not of the driver's package.
    pub major: c_int,
    /// As above.
    pub minor: c_int,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The functions of a loaded driver. Those that every supported one has are called right on it.
pub struct Driver {
    functions: Functions,
    later: Later,
    version: Version,
}

impl Driver {
    /// Functions that some supported drivers lack.
    pub fn later(&self) -> &Later {
        &self.later
    }

    /// As the driver states it.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The constant's name of a result, and what it means. Any number will do.
    pub fn describe(&self, result: CUresult) -> (String, String) {
        let (mut name, mut text) = (null(), null());
        // SAFETY: takes any number and a place for a string.
        let named = unsafe { self.functions.cuGetErrorName(result, &raw mut name) } == CUDA_SUCCESS;
        // SAFETY: as above.
        let told = unsafe { self.functions.cuGetErrorString(result, &raw mut text) } == CUDA_SUCCESS;
        let read = |known: bool, at: *const std::ffi::c_char| {
            // SAFETY: the driver has just said that it is one of its strings: terminated, and never freed.
            (known && !at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
        };
        let name = read(named, name).unwrap_or_else(|| format!("CUDA error {result}"));
        (name, read(told, text).unwrap_or_else(|| "no more is known".to_owned()))
    }
}

impl Deref for Driver {
    type Target = Functions;

    fn deref(&self) -> &Functions {
        &self.functions
    }
}

impl Binding for Driver {
    const LIBRARY: &'static str = "CUDA driver (libcuda)";
    const REMEDY: &'static str = "it comes with NVIDIA's driver on the host: in a container, let the NVIDIA container runtime \
        bring it in (a resource request for nvidia.com/gpu, or --gpus with docker), or name the file of its libcuda.so.1";
    const MARK: &'static CStr = c"cuDriverGetVersion";

    fn bind(handles: &Handles) -> Result<Self, Refusal> {
        let missing = |error: libloading::Error| Refusal::missing(&error);
        // SAFETY: the library has the CUDA driver's own version function, so its functions are those of that API.
        let functions = unsafe { Functions::from_library(handles.library()?) }.map_err(missing)?;
        let version = version_of(&functions)?;
        // SAFETY: as above.
        let later = unsafe { Later::from_library(handles.library()?) };
        Ok(Self { functions, later, version })
    }
}

fn version_of(functions: &Functions) -> Result<Version, Refusal> {
    let mut number: c_int = 0;
    // SAFETY: a place for a number.
    match unsafe { functions.cuDriverGetVersion(&raw mut number) } {
        CUDA_SUCCESS => {}
        CUDA_ERROR_STUB_LIBRARY => return Err(Refusal::Stub),
        // A file that is there and no driver behind it.
        error => return Err(Refusal::Version { found: format!("unknown (error {error})"), wanted: WANTED }),
    }
    let version = Version { major: number / 1000, minor: number % 1000 / 10 };
    if version < OLDEST {
        return Err(Refusal::Version { found: version.to_string(), wanted: WANTED });
    }
    Ok(version)
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
