//! What `make setup` installed: the newest and the oldest versions, each in an environment of its own.

use std::io::Write;
use std::path::{Path, PathBuf};

use kvferry_dynlib::{Candidate, files_under};

use crate::Copy;

const ENVIRONMENTS: [&str; 2] = [".venv", ".venv-oldest"];

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// The packages' folders of the checkout's environments, those with the newest versions first.
pub fn python_folders() -> Vec<PathBuf> {
    let of_environment = |name: &str| {
        let environment = checkout().join(name);
        let active = |name: &str| (name == "VIRTUAL_ENV").then(|| environment.clone().into_os_string());
        let found = kvferry_dynlib::python_folders(active);
        found.into_iter().filter(|folder| folder.starts_with(&environment)).collect::<Vec<_>>()
    };
    ENVIRONMENTS.into_iter().flat_map(of_environment).collect()
}

/// The distribution's packages, unpacked: the folder that they take for the root.
pub fn distribution() -> PathBuf {
    checkout().join(".venv-oldest/distribution")
}

/// The folders of libraries among the unpacked packages of the distribution.
pub fn distribution_libraries() -> Vec<PathBuf> {
    let lib = distribution().join("usr/lib");
    files_under(&lib, |name| name.ends_with("-linux-gnu")).into_iter().chain([lib]).collect()
}

/// The files among `candidates`.
pub fn files_of(candidates: Vec<Candidate>) -> Vec<Copy> {
    let file = |candidate| match candidate {
        Candidate::File(file) => Some(Copy::file(file)),
        Candidate::Name(_) => None,
    };
    candidates.into_iter().filter_map(file).collect()
}

/// The folders among `folders` that hold the header `marker`. Each that does not is reported as skipped.
pub fn headers(folders: &[PathBuf], marker: &str) -> Vec<PathBuf> {
    let (found, missing): (Vec<_>, Vec<_>) =
        folders.iter().cloned().partition(|folder| folder.join(marker).exists());
    for folder in missing {
        skipped(&format!("no headers in {} (run `make setup`)", folder.display()));
    }
    found
}

/// Says that something could not be tried. Written past the harness's capture: nobody would see it otherwise.
pub fn skipped(what: &str) {
    std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes()).unwrap();
}
