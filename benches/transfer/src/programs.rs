//! What a run starts: workers of our own, and other engines' tools where this machine has them.

use std::path::{Path, PathBuf};
use std::process::Command;

use kvferry_bench_common::Result;

/// Where programs and libraries lie on this machine.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    /// UCX's file for workers.
    pub ucx_library: Option<PathBuf>,
    /// NIXL's.
    pub nixl_library: Option<PathBuf>,
    /// The Python that has NIXL and Mooncake.
    pub python: Option<PathBuf>,
    /// UCX's own tool.
    pub ucx_perftest: Option<PathBuf>,
}

impl Programs {
    /// What the user named, and else what lies in the virtual environment of the Python.
    ///
    /// # Errors
    /// When a file that was named is not there.
    pub fn find(named: Self) -> Result<Self> {
        let all = [&named.python, &named.ucx_library, &named.nixl_library, &named.ucx_perftest];
        if let Some(missing) = all.into_iter().flatten().find(|file| !file.exists()) {
            return Err(format!("{}: there is no such file", missing.display()).into());
        }
        let python = named.python.or_else(|| {
            let environment =
                std::env::var_os("VIRTUAL_ENV").map_or_else(|| PathBuf::from(".venv"), PathBuf::from);
            Some(environment.join("bin/python")).filter(|python| python.exists())
        });
        let packages = python.as_deref().and_then(packages);
        let existing = |file: PathBuf| Some(file).filter(|file| file.exists());
        let in_packages = |file: &str| existing(packages.as_ref()?.join(file));
        let ucx_library = named.ucx_library.or_else(|| in_packages("libucx/lib/libucp.so.0"));
        let nixl_library = named.nixl_library.or_else(|| packages.as_deref().and_then(nixl_wheel));
        let ucx_perftest =
            named.ucx_perftest.or_else(|| ucx_library.as_deref().and_then(tool_beside)).or_else(in_path);
        Ok(Self { ucx_library, nixl_library, python, ucx_perftest })
    }

    /// A worker of our own: this program again; with `tls` as its UCX's transports.
    ///
    /// # Errors
    /// When this program's file is not known.
    pub fn worker(&self, tls: Option<&str>) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["transfer", "--worker"]);
        for (flag, library) in [("--ucx-library", &self.ucx_library), ("--nixl-library", &self.nixl_library)]
        {
            command.args(library.iter().flat_map(|library| [flag.as_ref(), library.as_os_str()]));
        }
        // NIXL's UCX is told so; ours by its options.
        command.envs(tls.map(|tls| ("UCX_TLS", tls)));
        // UCX speaks on standard output, which is for answers here.
        command.env("UCX_LOG_FILE", std::env::var_os("UCX_LOG_FILE").unwrap_or_else(|| "/dev/stderr".into()));
        Ok(command)
    }
}

/// Where the packages of `python` lie.
fn packages(python: &Path) -> Option<PathBuf> {
    let lib = python.parent()?.parent()?.join("lib");
    let versions = std::fs::read_dir(lib).ok()?.flatten();
    versions.map(|version| version.path().join("site-packages")).find(|packages| packages.exists())
}

/// NIXL's C API in its wheel.
fn nixl_wheel(packages: &Path) -> Option<PathBuf> {
    let folders = std::fs::read_dir(packages).ok()?.flatten();
    let named = |name: &str| name.starts_with(".nixl_cu") && name.ends_with(".mesonpy.libs");
    let wheel = folders.filter(|folder| folder.file_name().to_str().is_some_and(named));
    wheel.map(|folder| folder.path().join("libnixl_capi.so")).find(|file| file.exists())
}

/// UCX's tool beside a library of it: in a wheel's `bin`, or in `/usr/bin` above `/usr/lib/ARCHITECTURE`.
fn tool_beside(library: &Path) -> Option<PathBuf> {
    let folders = library.ancestors().skip(1).take(3);
    folders.map(|folder| folder.join("bin/ucx_perftest")).find(|tool| tool.exists())
}

fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("ucx_perftest")).find(|tool| tool.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_named_and_is_not_there_is_an_error_with_its_name() {
        let named = Programs { ucx_library: Some("/no/libucp.so.0".into()), ..Programs::default() };
        let error = Programs::find(named).unwrap_err();
        assert!(error.to_string().contains("/no/libucp.so.0"));
    }
}
