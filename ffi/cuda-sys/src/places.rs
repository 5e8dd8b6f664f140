//! Where the driver may lie on a machine, in the order in which to try.

use std::path::Path;

use kvferry_dynlib::Candidate;

const NAME: &str = "libcuda.so.1";

/// Where it is put that the loader does not always look: distributions, Kubernetes' device plugins, WSL, NixOS.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/nvidia/lib64",
    "/usr/lib/wsl/lib",
    "/run/opengl-driver/lib",
];

/// The file that was asked for and no other, or else: what the loader finds, and the usual folders.
///
/// A file that the user named is not replaced by another when it cannot be used: they want to hear of it.
pub fn candidates(explicit: Option<&Path>) -> Vec<Candidate> {
    if let Some(file) = explicit {
        return vec![Candidate::from(file)];
    }
    let files = FOLDERS.iter().map(|folder| Path::new(folder).join(NAME)).filter(|file| file.exists());
    std::iter::once(Candidate::Name(NAME)).chain(files.map(Candidate::File)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_asked_for_is_the_only_candidate() {
        let file = Path::new("/somewhere/libcuda.so.1");
        assert_eq!(candidates(Some(file)), [Candidate::File(file.to_path_buf())]);
    }

    #[test]
    fn the_loader_is_asked_first() {
        assert_eq!(candidates(None)[0], Candidate::Name("libcuda.so.1"));
    }
}
