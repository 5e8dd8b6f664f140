//! Reads the kernel's files below one root, which is `/` outside of tests. What cannot be read is not there.

use std::fs;
use std::path::{Path, PathBuf};

/// Most entries of one folder that are looked at: GIDs of a port go to 256, cards of a machine to some dozens.
const MAX_ENTRIES: usize = 4096;

/// Where `proc`, `sys` and `dev` are.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// Below this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The path of `name`, which is relative.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The first line of a file, trimmed.
    pub fn line(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(name)).ok()?;
        Some(text.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// The first word of a file, as a number; `0x` makes it hexadecimal.
    pub fn number(&self, name: &str) -> Option<i64> {
        let line = self.line(name)?;
        let word = line.split_whitespace().next()?;
        match word.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        }
    }

    /// The names in a folder, sorted, numbers by their value.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.take(MAX_ENTRIES).collect();
        names.sort_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone()));
        names
    }

    /// The last part of where a link points to.
    pub fn link(&self, name: &str) -> Option<String> {
        let target = fs::read_link(self.path(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The real folder behind `name`, as a path.
    pub fn real(&self, name: &str) -> Option<PathBuf> {
        fs::canonicalize(self.path(name)).ok()
    }

    /// Whether this process may read and write the file.
    pub fn usable(&self, name: &str) -> bool {
        let flags = nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK;
        nix::unistd::access(&self.path(name), flags).is_ok()
    }
}

impl AsRef<Path> for Root {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}
