//! Opening: the first candidate that loads, has what it must have, and is of a supported version.

use std::ffi::CStr;
use std::fmt;
use std::mem;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::{Candidate, NotFound, Refusal};

/// A set of functions bound to an opened library.
pub trait Binding: Sized {
    /// The library's name for people.
    const LIBRARY: &'static str;
    /// How to get the library, as a sentence.
    const REMEDY: &'static str;
    /// A function that only the right library has. Tells which file was loaded.
    const MARK: &'static CStr;

    /// Binds the functions, and asks for the version.
    ///
    /// # Errors
    /// A function is missing or the version is not supported.
    fn bind(handles: &Handles) -> Result<Self, Refusal>;
}

/// A library that is open while its functions are being bound.
pub struct Handles {
    candidate: Candidate,
    file: PathBuf,
}

impl Handles {
    /// The file that was loaded, links resolved.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// One more handle on the same library: each generated struct owns one.
    ///
    /// # Errors
    /// The loader refuses what it has just opened: memory is short.
    pub fn library(&self) -> Result<libloading::Library, Refusal> {
        dlopen(&self.candidate).map(Into::into)
    }
}

/// Functions of a library that stays loaded until the process ends, and the file they came from.
///
/// Never unloaded: these libraries start threads, hook the allocator and register exit handlers, which would run on
/// unmapped code.
pub struct Bound<B> {
    functions: B,
    file: PathBuf,
}

impl<B> Bound<B> {
    /// The file that was really loaded, links resolved.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl<B> Deref for Bound<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.functions
    }
}

impl<B> fmt::Debug for Bound<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Opens the first candidate that can be used.
///
/// # Errors
/// None can: with all that was tried.
pub fn open_any<B: Binding>(candidates: &[Candidate]) -> Result<Bound<B>, NotFound> {
    let mut tried = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        match open::<B>(candidate) {
            Ok(bound) => return Ok(bound),
            Err(refusal) => tried.push((candidate.clone(), refusal)),
        }
    }
    Err(NotFound { library: B::LIBRARY, tried, remedy: B::REMEDY })
}

fn open<B: Binding>(candidate: &Candidate) -> Result<Bound<B>, Refusal> {
    let library = dlopen(candidate)?;
    let file = file_of(&library, B::MARK)?;
    let handles = Handles { candidate: candidate.clone(), file };
    let functions = B::bind(&handles)?;
    // The handle that keeps it loaded.
    mem::forget(library);
    Ok(Bound { functions, file: handles.file })
}

fn dlopen(candidate: &Candidate) -> Result<Library, Refusal> {
    // SAFETY: loading runs the library's initialisers. The candidates are files that the user named, or that the
    // package managers of this machine installed under the library's own name.
    let opened = unsafe { Library::open(Some(candidate.as_os_str()), RTLD_NOW | RTLD_LOCAL) };
    opened.map_err(|error| Refusal::unloadable(&error))
}

/// The file that `mark` was loaded from.
fn file_of(library: &Library, mark: &CStr) -> Result<PathBuf, Refusal> {
    // SAFETY: the symbol is never called through this type: only its address is looked at.
    let symbol = unsafe { library.get::<*const libc::c_void>(mark.to_bytes_with_nul()) }
        .map_err(|error| Refusal::missing(&error))?;
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: `info` is a place for the answer; any address may be asked about.
    let found = unsafe { libc::dladdr(*symbol, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return Err(Refusal::Unloadable("the loader does not know which file it loaded".to_owned()));
    }
    // SAFETY: the loader's own name of the file: a terminated string that lives while the library is open, which it is.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let path = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
    Ok(path.canonicalize().unwrap_or_else(|_| path.to_path_buf()))
}
