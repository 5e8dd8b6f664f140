//! Where pip puts libraries: wheels bring their own copies, which the dynamic loader does not know of.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders looked through below each root, newest Python first. A machine with more than this many Pythons in one
/// root has its oldest left out.
const MAX_PYTHONS: usize = 16;

/// The `site-packages` and `dist-packages` folders that exist: of the active virtual or conda environment, of the user,
/// of `/usr/local` and of the system, in this order. `env` reads an environment variable.
pub fn python_folders(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|name| env(name)).map(PathBuf::from).collect();
    roots.extend(env("HOME").map(|home| Path::new(&home).join(".local")));
    roots.extend(["/usr/local", "/usr"].map(PathBuf::from));
    roots.iter().flat_map(|root| python_folders_of(root)).collect()
}

fn python_folders_of(root: &Path) -> Vec<PathBuf> {
    let mut pythons: Vec<PathBuf> = ["lib", "lib64"]
        .iter()
        .flat_map(|lib| files_under(&root.join(lib), |name| name.starts_with("python3")))
        .filter(|folder| !is_link(folder))
        .collect();
    pythons.sort_by_key(|folder| std::cmp::Reverse(minor_version(folder)));
    pythons.truncate(MAX_PYTHONS);
    pythons
        .iter()
        .flat_map(|python| ["site-packages", "dist-packages"].map(|packages| python.join(packages)))
        .filter(|folder| folder.is_dir())
        .collect()
}

/// 12 for `python3.12`; 0 for `python3`.
fn minor_version(folder: &Path) -> u32 {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_prefix("python3.").and_then(|minor| minor.parse().ok()).unwrap_or(0)
}

/// `lib64` is often a link to `lib`: what is below it would come twice.
fn is_link(folder: &Path) -> bool {
    folder.parent().is_some_and(Path::is_symlink)
}

/// What lies directly in `folder` under a name that `wanted` accepts, in order of names. Nothing when there is no such
/// folder.
pub fn files_under(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}
