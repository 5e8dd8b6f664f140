//! Where UCX may lie on a machine, in the order in which to try.

use std::path::{Path, PathBuf};

use kvferry_dynlib::{Candidate, files_under, python_folders};

const NAME: &str = "libucp.so.0";

/// Where images and installers of vendors put UCX, outside of the loader's search.
const VENDOR_FOLDERS: [&str; 3] = ["/opt/ucx/lib", "/usr/local/ucx/lib", "/opt/hpcx/ucx/lib"];

/// The file that was asked for and no other, or else: what the loader finds, vendors' folders, pip's folders.
///
/// A file that the user named is not replaced by another when it cannot be used: they want to hear of it.
pub fn candidates(explicit: Option<&Path>) -> Vec<Candidate> {
    if let Some(file) = explicit {
        return vec![Candidate::from(file)];
    }
    let mut candidates = vec![Candidate::Name(NAME)];
    candidates.extend(
        VENDOR_FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(NAME))
            .filter(|file| file.exists())
            .map(Candidate::File),
    );
    candidates.extend(candidates_in(&python_folders(|name| std::env::var_os(name))));
    candidates
}

/// UCX in pip's folders: the copy inside NIXL's wheel first, which has RDMA, then the wheel of UCX, which has not.
pub fn candidates_in(python_folders: &[PathBuf]) -> Vec<Candidate> {
    let in_nixl = python_folders.iter().flat_map(|folder| {
        files_under(folder, |name| name.starts_with("nixl_cu") && name.strip_suffix(".libs").is_some())
            .into_iter()
            .flat_map(|libs| files_under(&libs, |name| name.starts_with("libucp-") && name.contains(".so")))
    });
    let own =
        python_folders.iter().map(|folder| folder.join("libucx/lib").join(NAME)).filter(|file| file.exists());
    in_nixl.chain(own).map(Candidate::File).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_asked_for_is_the_only_candidate() {
        let file = Path::new("/somewhere/libucp.so.0");
        assert_eq!(candidates(Some(file)), [Candidate::File(file.to_path_buf())]);
    }

    #[test]
    fn the_loader_is_asked_first() {
        assert_eq!(candidates(None)[0], Candidate::Name("libucp.so.0"));
    }
}
