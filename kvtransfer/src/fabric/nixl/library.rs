//! The one NIXL of this process. A second copy would bring a second UCX, and both would go by the same names.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kvferry_nixl_sys::{Library, candidates, open_any};

use crate::Error;

static LOADED: Mutex<Option<Arc<Library>>> = Mutex::new(None);

/// The NIXL of that file, or the first that is found.
///
/// # Errors
/// [`Error::Library`]: there is none (with all that was tried), or this process has loaded another.
pub(super) fn load(file: Option<&Path>) -> Result<Arc<Library>, Error> {
    // Whoever panicked here has not stored anything.
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = &*loaded {
        return match file {
            Some(file) if file.canonicalize().ok().as_deref() != Some(library.file()) => {
                Err(Error::Library(format!(
                    "{} was asked for, but this process has loaded NIXL from {}, and it can have one only",
                    file.display(),
                    library.file().display()
                )))
            }
            _ => Ok(Arc::clone(library)),
        };
    }
    let library = open_any(&candidates(file)).map_err(|missing| Error::Library(missing.to_string()))?;
    Ok(Arc::clone(loaded.insert(Arc::new(library))))
}
