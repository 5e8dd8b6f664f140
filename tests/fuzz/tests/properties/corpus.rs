//! The committed seeds: small inputs, each of which shows one thing that a target must cope with.

use std::fs;
use std::path::PathBuf;

/// The seeds of a target, in the order of their names, so that a seed number means the same everywhere.
pub(crate) fn load(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}
