//! Limits that a transfer runs into: locked memory, shared memory, open files, and who may read another process.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::sysfs::Root;

/// No limit.
pub const UNLIMITED: u64 = u64::MAX;

/// What version 1 of control groups says where there is no limit is the largest size in whole pages, whatever a page is.
const NO_LIMIT: u64 = 1 << 62;

/// Of this process and machine; sizes in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Limits {
    /// `RLIMIT_MEMLOCK`: what a card may have pinned.
    pub memlock: u64,
    /// `RLIMIT_NOFILE`: sockets and more.
    pub open_files: u64,
    /// Size of `/dev/shm`, which libraries share memory through. Our own arenas do not need it.
    pub shm: Option<u64>,
    /// Yama's `ptrace_scope`: from 1 on, a process may copy from its children only (CMA).
    pub ptrace_scope: Option<i64>,
    /// The container's memory limit.
    pub memory: Option<u64>,
    /// The largest send and receive buffers that a socket may ask for.
    pub socket_buffers: Option<(u64, u64)>,
}

impl Limits {
    /// Of this process.
    pub fn of(root: &Root) -> Self {
        let size = |name: &str| root.number(name).and_then(|size| u64::try_from(size).ok());
        let buffers = (size("proc/sys/net/core/wmem_max"), size("proc/sys/net/core/rmem_max"));
        Self {
            memlock: soft(Resource::RLIMIT_MEMLOCK),
            open_files: soft(Resource::RLIMIT_NOFILE),
            shm: statvfs(&root.path("dev/shm")).ok().map(|shm| shm.blocks() * shm.fragment_size()),
            ptrace_scope: root.number("proc/sys/kernel/yama/ptrace_scope"),
            memory: size("sys/fs/cgroup/memory.max")
                .or_else(|| size("sys/fs/cgroup/memory/memory.limit_in_bytes"))
                .filter(|limit| *limit < NO_LIMIT),
            socket_buffers: buffers.0.zip(buffers.1),
        }
    }
}

/// What cannot be asked for limits nothing.
fn soft(resource: Resource) -> u64 {
    getrlimit(resource).map_or(UNLIMITED, |(soft, _)| soft)
}
