//! The process's own numbers, under the names that every exporter uses, read from `/proc` when asked.
//!
//! Best effort: what cannot be read is left out.

use std::fs;

/// Ticks per second in `/proc/*/stat`. The kernel scales to this number for user space on every architecture that
/// engines run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The numbers that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Process {
    /// User and system time, in seconds.
    pub(crate) cpu_seconds: Option<f64>,
    /// Since the epoch, in seconds.
    pub(crate) start_seconds: Option<f64>,
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_fds: Option<u64>,
    /// The soft limit.
    pub(crate) max_fds: Option<u64>,
    pub(crate) threads: Option<u64>,
}

impl Process {
    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let status = text("/proc/self/status");
        Self {
            cpu_seconds: cpu_seconds(&stat),
            start_seconds: start_seconds(&stat, &text("/proc/stat")),
            resident_bytes: status_number(&status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: status_number(&status, "VmSize:").map(|kib| kib * 1024),
            // One of them is the descriptor that reads the folder.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1)),
            max_fds: max_fds(&text("/proc/self/limits")),
            threads: status_number(&status, "Threads:"),
        }
    }
}

/// Field `number` of `/proc/self/stat`, counted from 1 as proc(5) does. The second is a name in parentheses, which may
/// hold anything, so fields are counted after the last of those.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str, system: &str) -> Option<f64> {
    let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn status_number(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

fn max_fds(limits: &str) -> Option<u64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    soft.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_fields_confuses_nothing() {
        let stat = "7 (a) 1 (b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 4 0 12345 1000 5 1844";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(start_seconds(stat, "cpu 1 2\nbtime 1000\nprocesses 5\n"), Some(1123.45));
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(start_seconds("7 (a) S", "btime 1000"), None);
        assert_eq!(status_number("VmRSS:\n", "VmRSS:"), None);
        assert_eq!(
            max_fds("Max open files            unlimited            unlimited            files"),
            None
        );
    }

    #[test]
    fn this_process_has_all_of_them() {
        let process = Process::read();
        assert!(process.cpu_seconds.is_some());
        assert!(process.start_seconds.unwrap() > 1.6e9);
        assert!(process.resident_bytes.unwrap() > 100_000);
        assert!(process.virtual_bytes.unwrap() >= process.resident_bytes.unwrap());
        assert!(process.open_fds.unwrap() >= 3);
        assert!(process.max_fds.unwrap() >= process.open_fds.unwrap());
        assert!(process.threads.unwrap() >= 1);
    }
}
