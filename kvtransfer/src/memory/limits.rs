//! What this process, its container and the machine let it have, looked up before it is asked for: the kernel's own answers
//! come late, name no limit, or are a signal.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use super::{ArenaProblem, Owner};

/// Whoever has this capability may lock what they like.
const CAP_IPC_LOCK: u32 = 14;

/// Whether this process may lock `needed` bytes more. Registering memory with an RDMA device counts as locking.
///
/// # Errors
/// [`ArenaProblem::Memlock`], with the limit and what to do.
pub fn memlock(needed: u64) -> Result<(), ArenaProblem> {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return Ok(()) };
    lockable(needed, limit, &fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// What a lock that was refused is about, whatever [`memlock`] says.
pub(super) fn locked_out(needed: u64) -> ArenaProblem {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ArenaProblem::Memlock { needed, locked: locked(&status), limit }
}

/// `status` is `/proc/self/status`.
fn lockable(needed: u64, limit: u64, status: &str) -> Result<(), ArenaProblem> {
    let capabilities = field(status, "CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
    let locked = locked(status);
    if capabilities.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
        || needed.saturating_add(locked) <= limit
    {
        return Ok(());
    }
    Err(ArenaProblem::Memlock { needed, locked, limit })
}

/// Bytes locked already.
fn locked(status: &str) -> u64 {
    field(status, "VmLck:").and_then(kibibytes).unwrap_or(0)
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// `64 kB` is 65536.
fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Whether this process may make a file of `needed` bytes. Beyond the limit, the kernel ends it with a signal.
pub(super) fn file_size(needed: u64) -> Result<(), ArenaProblem> {
    match getrlimit(Resource::RLIMIT_FSIZE) {
        Ok((limit, _)) if limit < needed => Err(ArenaProblem::FileSize(needed, limit)),
        _ => Ok(()),
    }
}

/// Whether there are `needed` bytes of memory now, in the container and on the machine. Others may take them a moment later.
///
/// # Errors
/// [`ArenaProblem::Memory`], with what is left and of what.
pub fn room(needed: u64) -> Result<(), ArenaProblem> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(left) = left_of(Path::new("/sys/fs/cgroup"), &own).filter(|left| *left < needed) {
        return Err(ArenaProblem::Memory { needed, left, of: Owner::Container });
    }
    let machine = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match field(&machine, "MemAvailable:").and_then(kibibytes) {
        Some(left) if left < needed => Err(ArenaProblem::Memory { needed, left, of: Owner::Machine }),
        _ => Ok(()),
    }
}

/// The least that any control group on the way up from `own` (`/proc/self/cgroup`) has left; `None` without limits.
fn left_of(root: &Path, own: &str) -> Option<u64> {
    // Within a container, the group may be told by its name outside, which is not there: the mount is its own group then.
    let all = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let first = if controllers.split(',').any(|name| name == "memory") { Some("memory") } else { None };
        (first.is_some() || controllers.is_empty())
            .then(|| (first.map_or(root.to_path_buf(), |v1| root.join(v1)), path))
    });
    all.flat_map(|(mount, path)| groups(&mount, path)).filter_map(|group| left_in(&group)).min()
}

/// A group and those above it, down to the mount.
fn groups(mount: &Path, path: &str) -> Vec<PathBuf> {
    let group = mount.join(path.trim_start_matches('/'));
    group.ancestors().take_while(|above| above.starts_with(mount)).map(Path::to_path_buf).collect()
}

/// What one group has left: its limit, less what it uses, less what of that the kernel would give up at once.
fn left_in(group: &Path) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let of_either = |second: &str, first: &str| number(second).or_else(|| number(first));
    // `max` is no number, and no limit.
    let limit = of_either("memory.max", "memory.limit_in_bytes")?;
    let used = of_either("memory.current", "memory.usage_in_bytes")?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let idle =
        ["total_inactive_file ", "inactive_file "].iter().find_map(|name| field(&stat, name)?.parse().ok());
    Some(limit.saturating_sub(used.saturating_sub(idle.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tkv\nVmLck:\t      64 kB\nCapEff:\t00000000a80425fb\n";

    #[test]
    fn what_is_locked_already_counts_and_the_capability_lifts_the_limit() {
        assert_eq!(lockable(64 << 10, 128 << 10, STATUS), Ok(()));
        let problem = lockable(1 + (64 << 10), 128 << 10, STATUS).unwrap_err();
        assert_eq!(problem, ArenaProblem::Memlock { needed: 65_537, locked: 65_536, limit: 131_072 });
        let text = problem.to_string();
        for part in ["65537 bytes", "131072", "ulimit -l", "LimitMEMLOCK", "IPC_LOCK"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let capable = STATUS.replace("a80425fb", "a80465fb");
        assert_eq!(lockable(u64::MAX, 0, &capable), Ok(()));
    }

    #[cfg(not(miri))]
    mod groups {
        use super::*;

        /// A tree of control groups in a folder of this test's.
        struct Tree(PathBuf);

        impl Tree {
            fn new(name: &str) -> Self {
                let root = std::env::temp_dir().join(format!("kvferry-groups-{name}-{}", std::process::id()));
                fs::create_dir_all(&root).unwrap();
                Self(root)
            }

            fn file(&self, path: &str, text: &str) {
                let path = self.0.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }

        impl Drop for Tree {
            fn drop(&mut self) {
                fs::remove_dir_all(&self.0).unwrap();
            }
        }

        #[test]
        fn the_tightest_group_on_the_way_up_decides_and_idle_file_pages_count_as_left() {
            let tree = Tree::new("two");
            tree.file("pod/memory.max", "1000\n");
            tree.file("pod/memory.current", "900\n");
            tree.file("pod/memory.stat", "anon 600\ninactive_file 250\nactive_file 50\n");
            tree.file("pod/container/memory.max", "max\n");
            tree.file("pod/container/memory.current", "800\n");
            assert_eq!(left_of(&tree.0, "0::/pod/container\n"), Some(350));
            tree.file("pod/container/memory.max", "810\n");
            assert_eq!(left_of(&tree.0, "0::/pod/container\n"), Some(10));
        }

        #[test]
        fn the_first_version_of_groups_is_read_as_well() {
            let tree = Tree::new("one");
            tree.file("memory/kubepods/memory.limit_in_bytes", "4096\n");
            tree.file("memory/kubepods/memory.usage_in_bytes", "1096\n");
            assert_eq!(left_of(&tree.0, "5:cpu,cpuacct:/kubepods\n4:memory:/kubepods\n0::/\n"), Some(3000));
        }

        #[test]
        fn a_group_that_is_told_by_its_name_outside_is_the_mount_itself() {
            let tree = Tree::new("inside");
            tree.file("memory.max", "500\n");
            tree.file("memory.current", "100\n");
            assert_eq!(left_of(&tree.0, "0::/kubepods/pod-7/abc\n"), Some(400));
        }

        #[test]
        fn without_a_limit_everything_is_left() {
            let tree = Tree::new("none");
            tree.file("memory.max", "max\n");
            tree.file("memory.current", "100\n");
            assert_eq!(left_of(&tree.0, "0::/\n"), None);
            assert_eq!(left_of(&tree.0, ""), None);
        }
    }
}
