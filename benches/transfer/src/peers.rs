//! Other engines on the same work: their own Python packages, driven by small programs that speak the workers' protocol.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kvferry_bench_common::Result;

/// The programs travel in this one, so that it needs no checkout.
const COMMON: &str = include_str!("../peers/common.py");
const NIXL: &str = include_str!("../peers/nixl_peer.py");
const MOONCAKE: &str = include_str!("../peers/mooncake_peer.py");

/// How NIXL is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nixl {
    /// `UCX_TLS`; as UCX chooses if `None`.
    pub tls: Option<String>,
    /// Whether the agent has a progress thread, which is its default. Without, the driven side's own thread spins.
    pub progress_thread: bool,
    /// `UCX_TCP_{TX,RX}_SEG_SIZE`.
    pub segment: Option<String>,
    /// Threads that its UCX plugin shares a transfer's descriptors among; 0 for none.
    pub threads: u32,
}

impl Nixl {
    /// As vLLM's connector sets it up, which leaves UCX to itself.
    pub const fn as_in_vllm(tls: Option<String>) -> Self {
        Self { tls, progress_thread: true, segment: None, threads: 4 }
    }

    /// The best that was found over TCP: large segments, and no thread that competes with the callers.
    pub fn best_over_tcp() -> Self {
        Self { tls: Some("tcp".into()), progress_thread: false, segment: Some("256k".into()), threads: 0 }
    }
}

/// How Mooncake is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mooncake {
    /// `MC_TCP_LANES_PER_PEER`; its own if `None`.
    pub lanes: Option<u32>,
    /// `MC_TCP_SLICE_SIZE`, bytes.
    pub slice: Option<u64>,
}

impl Mooncake {
    /// What is swept, besides its own defaults.
    pub fn sweep(quick: bool) -> Vec<Self> {
        let (lanes, slices): (&[u32], &[u64]) =
            if quick { (&[2], &[256 << 10]) } else { (&[1, 2, 4, 8], &[64 << 10, 256 << 10, 1 << 20]) };
        let swept = lanes.iter().flat_map(|lanes| slices.iter().map(|slice| (*lanes, *slice)));
        let own = Self { lanes: None, slice: None };
        std::iter::once(own)
            .chain(swept.map(|(lanes, slice)| Self { lanes: Some(lanes), slice: Some(slice) }))
            .collect()
    }

    /// In a side's name.
    pub fn label(&self) -> String {
        match (self.lanes, self.slice) {
            (Some(lanes), Some(slice)) => format!("mooncake-{lanes}x{}k", slice >> 10),
            _ => "mooncake".into(),
        }
    }
}

fn program(python: &Path, scratch: &Path, (name, source): (&str, &str)) -> Result<Command> {
    let file = scratch.join(name);
    for (file, source) in [(&scratch.join("common.py"), COMMON), (&file, source)] {
        fs::write(file, source).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    let mut command = Command::new(python);
    // The folder goes with the run, and nothing is to be compiled into it.
    command.arg("-B").arg(file);
    // Both print where they like; standard output is for answers.
    command.env("UCX_LOG_FILE", "/dev/stderr").env("NIXL_LOG_LEVEL", "ERROR");
    // Half of the lines above would be a library telling that it is well.
    command.stderr(Stdio::null());
    Ok(command)
}

/// A process that drives NIXL's Python agent; its program lies in `scratch`.
///
/// # Errors
/// When nothing can be written there.
pub fn nixl(python: &Path, scratch: &Path, setup: &Nixl) -> Result<Command> {
    let mut command = program(python, scratch, ("nixl_peer.py", NIXL))?;
    command.arg(if setup.progress_thread { "thread" } else { "spin" }).arg(setup.threads.to_string());
    // As vLLM does.
    command.env("UCX_RCACHE_MAX_UNRELEASED", "1024");
    for name in ["UCX_TLS", "UCX_TCP_TX_SEG_SIZE", "UCX_TCP_RX_SEG_SIZE"] {
        command.env_remove(name);
    }
    command.envs(setup.tls.iter().map(|tls| ("UCX_TLS", tls)));
    for name in ["UCX_TCP_TX_SEG_SIZE", "UCX_TCP_RX_SEG_SIZE"] {
        command.envs(setup.segment.iter().map(|segment| (name, segment)));
    }
    Ok(command)
}

/// A process that drives Mooncake's transfer engine; its program lies in `scratch`.
///
/// # Errors
/// When nothing can be written there.
pub fn mooncake(python: &Path, scratch: &Path, setup: &Mooncake) -> Result<Command> {
    let mut command = program(python, scratch, ("mooncake_peer.py", MOONCAKE))?;
    command.env("MC_FORCE_TCP", "1").env("MC_LOG_LEVEL", "ERROR").env("GLOG_minloglevel", "2");
    command.envs(setup.lanes.map(|lanes| ("MC_TCP_LANES_PER_PEER", lanes.to_string())));
    command.envs(setup.slice.map(|slice| ("MC_TCP_SLICE_SIZE", slice.to_string())));
    Ok(command)
}

/// Whether `python` has `module`, without loading all of it.
///
/// # Errors
/// When it has not, with what to do.
pub fn has(python: Option<&Path>, module: &str) -> Result<()> {
    let hint = "install it (`make setup` does) or name another interpreter with --python";
    let python = python.ok_or_else(|| format!("--compare needs a Python with {module}; {hint}"))?;
    let code = format!("import importlib.util as u, sys; sys.exit(u.find_spec({module:?}) is None)");
    let found = Command::new(python).args(["-c", &code]).status().is_ok_and(|status| status.success());
    if found { Ok(()) } else { Err(format!("{} has no {module}; {hint}", python.display()).into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweep_has_mooncakes_own_settings_and_no_name_twice() {
        for quick in [false, true] {
            let mut names: Vec<_> = Mooncake::sweep(quick).iter().map(Mooncake::label).collect();
            assert_eq!(names[0], "mooncake");
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn a_python_without_the_module_is_refused_with_what_to_do() {
        assert!(has(None, "nixl").unwrap_err().to_string().contains("--python"));
        assert!(has(Some(Path::new("/no/python")), "nixl").unwrap_err().to_string().contains("make setup"));
    }
}
