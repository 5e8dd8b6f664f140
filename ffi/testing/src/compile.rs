//! C, compiled by the compiler that Rust links with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a C program printed: a line holds a name and its numbers.
pub type Numbers = BTreeMap<String, Vec<i64>>;

/// Compiles into one folder.
pub struct C<'a> {
    /// Where files are written: one of the test's own below `CARGO_TARGET_TMPDIR`. Made when missing.
    pub folder: &'a str,
}

impl C<'_> {
    /// A shared library of this code, named after the test.
    pub fn shared_library(&self, name: &str, code: &str) -> PathBuf {
        self.compile(name, code, &["-shared", "-fPIC"])
    }

    /// Runs this code with the headers below `include`. Tests run side by side: `name` must be each one's own.
    pub fn numbers(&self, name: &str, code: &str, include: &Path) -> Numbers {
        // Without warnings: headers may mark as deprecated what is compared.
        let program = self.compile(name, code, &["-w", "-I", include.to_str().unwrap()]);
        let ran = Command::new(program).output().unwrap();
        assert!(ran.status.success(), "{name}: {:?}", ran.status);
        let parse = |line: &str| {
            let mut words = line.split(' ');
            (words.next().unwrap().to_owned(), words.map(|word| word.parse().unwrap()).collect())
        };
        String::from_utf8(ran.stdout).unwrap().lines().map(parse).collect()
    }

    /// A file that is no library, though its name says so.
    pub fn text(&self, name: &str) -> PathBuf {
        let file = self.path(name);
        fs::write(&file, "not a library\n").unwrap();
        file
    }

    /// A file that does not exist.
    pub fn nothing(&self, name: &str) -> PathBuf {
        let file = self.path(name);
        assert!(!file.exists(), "{} is in the way", file.display());
        file
    }

    /// An empty file below the folder, with the folders on the way to it.
    pub fn empty(&self, name: &str) -> PathBuf {
        let file = self.path(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        file
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.folder).unwrap();
        Path::new(self.folder).join(name)
    }

    fn compile(&self, name: &str, code: &str, options: &[&str]) -> PathBuf {
        let (source, output) = (self.path(&format!("{name}.c")), self.path(name));
        fs::write(&source, code).unwrap();
        let compiled = Command::new("cc").args(options).arg("-o").arg(&output).arg(&source).output().unwrap();
        assert!(compiled.status.success(), "{name}: {}", String::from_utf8_lossy(&compiled.stderr));
        output
    }
}
