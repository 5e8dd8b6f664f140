//! Devices' memory through a CUDA driver.

mod devices;
mod fabric;
mod importer;
mod peer;
mod real;
mod refusals;
mod sharing;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use kvferry_transfer::memory::cuda::Cuda;
use kvferry_transfer::memory::{Device, Region};

use crate::{CC, process};

/// The driver that a process of these tests loads; unset: the machine's.
const DRIVER: &str = "KVFERRY_MEMORY_DRIVER";

/// Where the stand-in writes what a process has left behind.
const REPORT: &str = "STAND_IN_REPORT";

fn stand_in() -> &'static str {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    let compile = || {
        // Processes of another run may have the last one loaded: it is replaced, not written into.
        let name = format!("stand-in-{}", std::process::id());
        let compiled = CC.shared_library(&name, include_str!("../stand_in.c"));
        fs::remove_file(compiled.with_file_name(name + ".c")).unwrap();
        let file = compiled.with_file_name("libcuda-stand-in.so");
        fs::rename(compiled, &file).unwrap();
        file
    };
    COMPILED.get_or_init(compile).to_str().unwrap()
}

/// The driver of this process.
fn cuda() -> Cuda {
    Cuda::open(env::var_os(DRIVER).map(PathBuf::from).as_deref()).unwrap()
}

fn memory(cuda: &Cuda, device: u32, len: usize) -> Region {
    cuda.device(Device(device)).unwrap().allocate(NonZeroUsize::new(len).unwrap()).unwrap()
}

/// Runs `test` in a process that has the stand-in, started with these variables; and sees to it that it leaves nothing
/// behind in the driver, nor does what the driver's manual forbids.
fn with_stand_in(name: &str, variables: &[(&str, &str)], test: impl FnOnce()) {
    if env::var_os(DRIVER).is_some() {
        return test();
    }
    let report = report();
    let own = [(DRIVER, stand_in()), (REPORT, report.to_str().unwrap())];
    process::alone(name, &[&own, variables].concat(), || unreachable!("it has a driver then"));
    leaves_nothing(&report);
}

/// A file that no other process writes.
fn report() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let file = Path::new(CC.folder).join(format!("report-{}-{number}", std::process::id()));
    // A test that failed has left it, in a process of the same number.
    drop(fs::remove_file(&file));
    file
}

/// A second process with the same driver, which must leave nothing behind either.
struct Second {
    other: process::Other,
    report: PathBuf,
}

impl Second {
    fn start(role: &str, variables: &[(&str, &str)]) -> Self {
        let report = report();
        let own = [(REPORT, report.to_str().unwrap())];
        Self { other: process::Other::start(role, &[&own, variables].concat()), report }
    }

    fn ask(&mut self, command: &str) -> String {
        self.other.ask(command)
    }

    /// Without a word; it leaves no report.
    fn kill(&mut self) {
        self.other.kill();
    }

    fn end(self) {
        self.other.end();
        if env::var_os(DRIVER).is_some() {
            leaves_nothing(&self.report);
        }
    }
}

fn leaves_nothing(report: &Path) {
    let text = fs::read_to_string(report).unwrap();
    fs::remove_file(report).unwrap();
    assert_eq!(text.trim(), "memory 0 contexts 0 streams 0 events 0 pins 0 misuses 0");
}

/// Bytes that tell where they belong.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let byte = |at: usize| (at as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2];
    (0..len).map(byte).collect()
}

/// All bytes of a region, wherever it is.
fn bytes(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(region.len()).unwrap()];
    match region.cuda() {
        Some(memory) => memory.read(0, &mut bytes).unwrap(),
        None => assert!(region.read_at(0, &mut bytes)),
    }
    bytes
}

/// Fills it.
fn fill(region: &Region, bytes: &[u8]) {
    match region.cuda() {
        Some(memory) => memory.write(0, bytes).unwrap(),
        None => assert!(region.write_at(0, bytes)),
    }
}
