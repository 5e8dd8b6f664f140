//! One process for each copy of a library: two copies in one would hook the allocator twice and share their parts'
//! names.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skipped;

/// In the process of one copy: its file.
const COPY: &str = "KVFERRY_TEST_COPY";

/// One copy of a library.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Its file, or the name under which the loader is to find it.
    pub what: PathBuf,
    /// The folder that the loader is to look through first: for what is unpacked but not installed.
    pub folder: Option<PathBuf>,
}

impl Copy {
    /// This file.
    pub fn file(file: PathBuf) -> Self {
        Self { what: file, folder: None }
    }

    /// What the loader finds as `name` when `folder` comes first.
    pub fn in_folder(name: &str, folder: PathBuf) -> Self {
        Self { what: PathBuf::from(name), folder: Some(folder) }
    }
}

/// Runs `test` for each of `copies`, in a process of its own that runs only the test called `name`: the caller, named
/// with its modules as the harness lists it.
pub fn each_in_its_own_process(name: &str, copies: &[Copy], test: impl FnOnce(&Path)) {
    if let Some(copy) = env::var_os(COPY) {
        return test(Path::new(&copy));
    }
    if copies.is_empty() {
        skipped(&format!("{name}: no copy on this machine (run `make setup`)"));
    }
    for copy in copies {
        let mut run = Command::new(env::current_exe().unwrap());
        run.args([name, "--exact", "--nocapture"]).env(COPY, &copy.what);
        if let Some(folder) = &copy.folder {
            run.env("LD_LIBRARY_PATH", folder);
        }
        let run = run.output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{copy:?}: {}\n{said}", run.status);
        assert!(said.contains("1 passed"), "{copy:?}: no test is called {name}\n{said}");
        println!("{copy:?}\n{said}");
    }
}
