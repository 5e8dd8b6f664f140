//! A place where a library may be: a file, or a name that the dynamic loader looks up.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// One thing to try to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// This file and no other.
    File(PathBuf),
    /// What the loader finds under this name, by `LD_LIBRARY_PATH`, its cache and the system's folders.
    Name(&'static str),
}

impl Candidate {
    /// What is passed to `dlopen`.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        match self {
            Self::File(path) => path.as_os_str(),
            Self::Name(name) => OsStr::new(name),
        }
    }
}

impl From<&Path> for Candidate {
    fn from(path: &Path) -> Self {
        // The loader takes a word without a slash for a name to search for; a file in the current folder is a file.
        if path.components().count() == 1 {
            Self::File(Path::new(".").join(path))
        } else {
            Self::File(path.to_path_buf())
        }
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Name(name) => write!(f, "{name} (by the loader's search)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_alone_is_a_file_of_the_current_folder_and_not_a_name_to_search() {
        assert_eq!(Candidate::from(Path::new("libucp.so.0")).as_os_str(), "./libucp.so.0");
        assert_eq!(Candidate::from(Path::new("/a/libucp.so.0")).as_os_str(), "/a/libucp.so.0");
        assert_eq!(Candidate::Name("libucp.so.0").as_os_str(), "libucp.so.0");
    }
}
