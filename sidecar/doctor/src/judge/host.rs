//! The host's limits, and its network.

use super::{Finding, Level};
use crate::facts::{Facts, UNLIMITED};

/// Less cannot hold the KV cache of any engine: cards pin all of it.
const MEMLOCK_ENOUGH: u64 = 64 << 30;

/// Each peer takes a few sockets; a large fleet has a thousand peers.
const OPEN_FILES_ENOUGH: u64 = 4096;

/// Docker's default of 64 MiB is too small for any library that shares memory through it.
const SHM_ENOUGH: u64 = 1 << 30;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let limits = &facts.limits;
    if limits.memlock < MEMLOCK_ENOUGH {
        let level = if facts.hcas.is_empty() { Level::Note } else { Level::Warn };
        let what = format!(
            "a process here may lock {} of memory; cards pin all that they move",
            size(limits.memlock)
        );
        findings.push(Finding::new("memlock", level, what).fix(
            "raise RLIMIT_MEMLOCK: LimitMEMLOCK=infinity for the container runtime's service, ulimit -l unlimited, or the \
             capability IPC_LOCK in the pod's securityContext",
        ));
    }
    if limits.open_files < OPEN_FILES_ENOUGH {
        let what = format!("a process here may open {} files", limits.open_files);
        findings.push(
            Finding::new("open_files", Level::Note, what)
                .fix("raise RLIMIT_NOFILE (ulimit -n) for more than a few hundred peers"),
        );
    }
    if let Some(shm) = limits.shm.filter(|shm| *shm < SHM_ENOUGH) {
        let what = format!(
            "/dev/shm holds {}; NCCL, UCX and engines share memory through it (our arenas do not)",
            size(shm)
        );
        findings.push(
            Finding::new("shm", Level::Note, what)
                .fix("mount an emptyDir with medium: Memory at /dev/shm, or run with --shm-size"),
        );
    }
    if let Some(scope) = limits.ptrace_scope.filter(|scope| *scope > 0) {
        let what = format!(
            "ptrace_scope is {scope}: processes may not copy from each other (CMA); mapped memory is used instead"
        );
        findings.push(Finding::new("ptrace_scope", Level::Note, what));
    }
    findings.extend(network(facts));
    findings
}

fn network(facts: &Facts) -> Option<Finding> {
    let up: Vec<_> = facts.nics.iter().filter(|nic| nic.up).collect();
    let fastest =
        up.iter().filter_map(|nic| Some((nic.gbit?, nic))).max_by(|one, other| one.0.total_cmp(&other.0));
    let what = if let Some((gbit, nic)) = fastest {
        format!("the fastest network interface is {}, {gbit} Gb/s, MTU {}", nic.name, nic.mtu)
    } else {
        let nic = up.first()?;
        format!("the network interface {} does not say how fast it is; MTU {}", nic.name, nic.mtu)
    };
    Some(Finding::new("network", Level::Good, what))
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    if bytes == UNLIMITED {
        return "any amount".to_owned();
    }
    let unit = UNITS.into_iter().find(|(unit, _)| bytes >= *unit);
    unit.map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_in_the_largest_unit_that_fits() {
        assert_eq!([size(0), size(8 << 20), size(UNLIMITED)], ["0 bytes", "8 MiB", "any amount"]);
    }
}
