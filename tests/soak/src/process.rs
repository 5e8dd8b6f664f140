//! What a process holds, from /proc: the kernel's word, not the sidecar's own.

use std::fs;

use crate::Result;

/// Resident memory, KiB.
///
/// # Errors
/// The process is gone.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status =
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error} (did the process end?)"))?;
    parse_rss(&status).ok_or_else(|| format!("{path}: VmRSS is missing").into())
}

fn parse_rss(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What its open file descriptors are, in the kernel's words.
///
/// # Errors
/// The process is gone, or belongs to somebody else.
pub(crate) fn descriptors(pid: u32) -> Result<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    // One that closes between listing and reading is not open any more.
    let targets = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(targets.map(|target| target.to_string_lossy().into_owned()).collect())
}

/// Runnable threads over the last minute; 0 where the kernel does not say.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_kib() {
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t  1024 kB\nThreads:\t1\n"), Some(1024));
        assert_eq!(parse_rss("Name:\tx\n"), None);
        assert!(rss_kib(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn an_open_file_is_among_the_descriptors() {
        let file = fs::File::open("/proc/version").unwrap();
        let holds =
            || descriptors(std::process::id()).unwrap().iter().any(|target| target == "/proc/version");
        assert!(holds());
        drop(file);
        assert!(!holds());
    }
}
