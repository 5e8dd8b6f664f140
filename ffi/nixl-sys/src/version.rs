//! Which NIXL was loaded. The C API has no call for it, so the package that the file came in is asked: pip writes the
//! version into the name of a folder beside it.

use std::fmt;
use std::path::Path;

use kvferry_dynlib::{Refusal, files_under};

const WANTED: &str = "1.0 or a later 1.x";
const SUPPORTED_MAJOR: &str = "1";

/// What is known of the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The version of the pip package that the file belongs to; `None` for one that was installed otherwise.
    pub packaged: Option<String>,
    /// It has the later functions: 1.2 has not, 1.5 has.
    pub later: bool,
}

impl Version {
    pub(crate) fn of(file: &Path, later: bool) -> Self {
        Self { packaged: packaged(file), later }
    }

    /// The layout of what NIXL reads is known for one major version only, and nothing in it would reveal another.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match &self.packaged {
            Some(version) if version.split('.').next() != Some(SUPPORTED_MAJOR) => {
                Err(Refusal::Version { found: version.clone(), wanted: WANTED })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.packaged, self.later) {
            (Some(version), _) => f.write_str(version),
            (None, true) => f.write_str("not stated; it has the later functions"),
            (None, false) => f.write_str("not stated; it lacks the later functions"),
        }
    }
}

/// `1.5.1` for `.../.nixl_cu13.mesonpy.libs/libnixl_capi.so` beside `.../nixl_cu13-1.5.1.dist-info`.
fn packaged(file: &Path) -> Option<String> {
    let libs = file.parent()?;
    let package = libs.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".mesonpy.libs")?;
    let version_of = |name: &str| {
        Some(name.strip_prefix(package)?.strip_prefix('-')?.strip_suffix(".dist-info")?.to_owned())
    };
    let info = files_under(libs.parent()?, |name| version_of(name).is_some());
    version_of(info.first()?.file_name()?.to_str()?)
}
