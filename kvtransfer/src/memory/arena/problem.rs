//! What can go wrong with host memory, and what to do about it.

use std::fmt;
use std::io;

use crate::{Error, Fault};

/// Why an arena could not be had as it was asked for. Each has a stable [code](Self::code).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArenaProblem {
    /// Its name has a zero byte, or is too long.
    Name,
    /// Not so many huge pages are free.
    HugePages {
        /// Bytes of one.
        size: usize,
        /// How many were asked for.
        needed: usize,
        /// How many are free; `None` if the kernel has none of this size.
        free: Option<u64>,
    },
    /// The kernel joins no pages of shared memory: its setting.
    Transparent(String),
    /// No node of that number has memory here: those that have.
    UnknownNode(u32, Vec<u32>),
    /// The system does not let this process say where memory lies: its answer.
    NumaDenied(i32),
    /// This process may not lock so much.
    Memlock {
        /// Bytes asked for.
        needed: u64,
        /// Bytes that it has locked already.
        locked: u64,
        /// Bytes that it may.
        limit: u64,
    },
    /// This process may not make files of that size: bytes (needed, allowed).
    FileSize(u64, u64),
    /// There is not so much memory.
    Memory {
        /// Bytes asked for.
        needed: u64,
        /// Bytes that are left.
        left: u64,
        /// Who has no more.
        of: Owner,
    },
    /// The kernel gave no memory, though there should have been some: bytes asked for.
    Refused(u64),
    /// The system refused: what was tried, and its answer.
    System(&'static str, i32),
}

/// Who has memory to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The machine.
    Machine,
    /// The container, or another control group that this process is in.
    Container,
}

impl ArenaProblem {
    /// A stable word for logs, metrics and other programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Name => "arena_name",
            Self::HugePages { .. } => "arena_huge_pages",
            Self::Transparent(_) => "arena_transparent",
            Self::UnknownNode(..) => "arena_unknown_node",
            Self::NumaDenied(_) => "arena_numa_denied",
            Self::Memlock { .. } => "arena_memlock",
            Self::FileSize(..) => "arena_file_size",
            Self::Memory { .. } => "arena_memory",
            Self::Refused(_) => "arena_refused",
            Self::System(..) => "system",
        }
    }

    /// Whose fault it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Name | Self::UnknownNode(..) => Fault::Caller,
            _ => Fault::Machine,
        }
    }

    /// Whether the same may work again later, when others have let go of memory.
    pub const fn may_retry(&self) -> bool {
        matches!(self, Self::HugePages { free: Some(_), .. } | Self::Memory { .. } | Self::Refused(_))
    }
}

impl fmt::Display for ArenaProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("an arena's name has no zero byte, and at most 249 bytes"),
            Self::HugePages { size, needed, free: Some(free) } => {
                let (mib, kib) = (size >> 20, size >> 10);
                write!(
                    f,
                    "{needed} huge pages of {mib} MiB were asked for, {free} are free: reserve more \
                     (/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages, best at boot), in a pod request \
                     hugepages-{}, or allow usual pages instead",
                    if *size >> 30 > 0 { "1Gi" } else { "2Mi" }
                )
            }
            Self::HugePages { size, free: None, .. } => {
                write!(f, "this kernel, or processor, has no huge pages of {} MiB: use others", size >> 20)
            }
            Self::Transparent(setting) => write!(
                f,
                "the kernel joins no pages of shared memory (it says {setting}): write advise to \
                 /sys/kernel/mm/transparent_hugepage/shmem_enabled, or use usual pages"
            ),
            Self::UnknownNode(node, nodes) => {
                write!(f, "no memory node {node} is here: those with memory are {nodes:?}")
            }
            Self::NumaDenied(errno) => write!(
                f,
                "the system does not let this process place memory (mbind: {}): give the container CAP_SYS_NICE or a seccomp \
                 profile with mbind, or leave placement to the kernel",
                io::Error::from_raw_os_error(*errno)
            ),
            Self::Memlock { needed, locked, limit } => write!(
                f,
                "{needed} bytes are to be locked, {locked} are already, and this process may lock {limit} in all: raise \
                 RLIMIT_MEMLOCK (ulimit -l unlimited; LimitMEMLOCK=infinity in a systemd unit), or give the pod the capability \
                 IPC_LOCK"
            ),
            Self::FileSize(needed, allowed) => write!(
                f,
                "an arena is a file of {needed} bytes, and this process may make files of {allowed} only: raise RLIMIT_FSIZE \
                 (ulimit -f unlimited; LimitFSIZE=infinity)"
            ),
            Self::Memory { needed, left, of: Owner::Machine } => {
                write!(
                    f,
                    "{needed} bytes of memory were asked for, and the machine has {left} left: ask for less"
                )
            }
            Self::Memory { needed, left, of: Owner::Container } => write!(
                f,
                "{needed} bytes of memory were asked for, and the container has {left} left of its limit: raise \
                 resources.limits.memory (arenas count towards it, also when they are shared), or ask for less"
            ),
            Self::Refused(needed) => write!(
                f,
                "the kernel gives no {needed} bytes of memory: see ulimit -v, vm.overcommit_memory, and the container's limits"
            ),
            Self::System(what, errno) => write!(f, "{what}: {}", io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl std::error::Error for ArenaProblem {}

impl From<ArenaProblem> for Error {
    fn from(problem: ArenaProblem) -> Self {
        match problem {
            ArenaProblem::System(what, errno) => Self::System(what, errno),
            other => Self::Limit(other.to_string()),
        }
    }
}
