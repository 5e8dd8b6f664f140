//! What a process costs, asked of the kernel: CPU time and memory of proxies that the bench does not instrument, so that
//! every side is measured by the same yardstick.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::Result;

/// Resident memory of a process.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Memory {
    /// Resident now, KiB.
    pub rss_kib: u64,
    /// The most that was resident at any time, KiB.
    pub peak_kib: u64,
}

/// User and system time of all threads of a process, seconds. From the process's own CPU clock: the same sum as in
/// /proc/PID/stat, but not in steps of 10 ms, which short windows would drown in.
///
/// # Errors
/// When the process is gone.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let gone = |error| format!("CPU time of process {pid}: {error} (did it end?)");
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?)).map_err(gone)?;
    Ok(Duration::from(clock_gettime(clock).map_err(gone)?).as_secs_f64())
}

/// Resident memory of a process.
///
/// # Errors
/// When the process is gone.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text =
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error} (did the process end?)"))?;
    parse_memory(&text).ok_or_else(|| format!("{path}: VmRSS or VmHWM is missing").into())
}

fn parse_memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Some(Memory { rss_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
}

/// The process that listens on a TCP port of this machine, for peers that somebody else started. `None` when nobody
/// does, or when the process belongs to another user and its descriptors cannot be read.
pub fn listening_pid(port: u16) -> Option<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| holds_socket(format!("/proc/{pid}/fd"), &inodes))
}

/// Inodes of the sockets in state LISTEN (`0A`) on `port`, from a table in the form of /proc/net/tcp.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let suffix = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == "0A")
        .map(|row| row[9].to_owned())
        .collect()
}

fn holds_socket(descriptors: impl AsRef<Path>, sockets: &[String]) -> bool {
    let Ok(entries) = fs::read_dir(descriptors) else {
        return false;
    };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

/// The machine in words, without its name.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Machine {
    /// The processor's own name for itself.
    pub cpu: String,
    /// Logical processors this process may use.
    pub cores: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Runnable threads over the last minute, before the run: what others were doing.
    pub load_average: f64,
}

/// Describes the machine this runs on.
pub fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = after(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    Machine {
        cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory_mib: memory.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        load_average: read("/proc/loadavg")
            .split(' ')
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_reads_both_fields() {
        let memory = parse_memory("Name:\tx\nVmHWM:\t  200 kB\nVmRSS:\t  100 kB\n").unwrap();
        assert_eq!((memory.rss_kib, memory.peak_kib), (100, 200));
    }

    #[test]
    fn own_cpu_time_grows_with_work_and_own_memory_can_be_read() {
        let before = cpu_seconds(std::process::id()).unwrap();
        let sum = (0..1_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        assert!(cpu_seconds(std::process::id()).unwrap() > before, "{sum}");
        assert!(memory(std::process::id()).unwrap().rss_kib > 0);
    }

    #[test]
    fn the_listener_on_a_port_is_found_and_a_free_port_has_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening_pid(port), Some(std::process::id()));
        drop(listener);
        assert_eq!(listening_pid(port), None);
    }
}
