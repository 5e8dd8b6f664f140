//! Where NIXL may lie on a machine, in the order in which to try.

use std::path::{Path, PathBuf};

use kvferry_dynlib::{Candidate, files_under, python_folders};

const NAME: &str = "libnixl_capi.so";

/// Where images and installers of vendors put NIXL, outside of the loader's search; the libraries lie in a folder named
/// after the architecture below.
const VENDOR_FOLDERS: [&str; 2] = ["/opt/nvidia/nvda_nixl/lib", "/usr/local/nixl/lib"];

/// The file that was asked for and no other, or else: what the loader finds, vendors' folders, pip's folders.
///
/// A file that the user named is not replaced by another when it cannot be used: they want to hear of it.
pub fn candidates(explicit: Option<&Path>) -> Vec<Candidate> {
    if let Some(file) = explicit {
        return vec![Candidate::from(file)];
    }
    let mut candidates = vec![Candidate::Name(NAME)];
    let by_architecture = |folder: &&str| files_under(Path::new(folder), |name| name.ends_with("-linux-gnu"));
    candidates.extend(existing(VENDOR_FOLDERS.iter().flat_map(by_architecture)));
    candidates.extend(candidates_in(&python_folders(|name| std::env::var_os(name))));
    candidates
}

/// NIXL in pip's folders. Its wheels differ by the CUDA that some plugins want; the newest comes first.
pub fn candidates_in(python_folders: &[PathBuf]) -> Vec<Candidate> {
    let wheels = python_folders.iter().flat_map(|folder| {
        let mut libs =
            files_under(folder, |name| name.starts_with(".nixl_cu") && name.ends_with(".mesonpy.libs"));
        libs.reverse();
        libs
    });
    existing(wheels).collect()
}

fn existing(folders: impl Iterator<Item = PathBuf>) -> impl Iterator<Item = Candidate> {
    folders.map(|folder| folder.join(NAME)).filter(|file| file.exists()).map(Candidate::File)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_asked_for_is_the_only_candidate() {
        let file = Path::new("/somewhere/libnixl_capi.so");
        assert_eq!(candidates(Some(file)), [Candidate::File(file.to_path_buf())]);
    }

    #[test]
    fn the_loader_is_asked_first() {
        assert_eq!(candidates(None)[0], Candidate::Name("libnixl_capi.so"));
    }
}
