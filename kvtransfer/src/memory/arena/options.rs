//! How an arena is asked for.

use std::num::NonZeroUsize;

/// Which pages an arena is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pages {
    /// The machine's usual ones.
    #[default]
    Default,
    /// Usual ones, which the kernel may join to large ones as they are touched. It does so where
    /// `/sys/kernel/mm/transparent_hugepage/shmem_enabled` lets it.
    Transparent,
    /// Reserved ones of 2 MiB (`vm.nr_hugepages`, `hugepages-2Mi`).
    Huge2M,
    /// Reserved ones of 1 GiB.
    Huge1G,
}

impl Pages {
    /// Bytes of one, for those that are reserved.
    pub const fn reserved(self) -> Option<usize> {
        match self {
            Self::Default | Self::Transparent => None,
            Self::Huge2M => Some(2 << 20),
            Self::Huge1G => Some(1 << 30),
        }
    }
}

/// Which memory of the machine an arena lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numa {
    /// Near whichever thread touches a page first.
    #[default]
    Default,
    /// On this node and no other. [`numa`](crate::memory::numa) tells which is near a NIC or a device.
    Bind(u32),
    /// Page by page over all nodes that have memory: for what threads of all nodes use.
    Interleave,
}

/// An arena that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaOptions {
    /// What `/proc/PID/maps` shows of it. At most 249 bytes, none of them zero.
    pub name: String,
    /// Bytes.
    pub len: NonZeroUsize,
    /// Which pages.
    pub pages: Pages,
    /// Whether usual pages will do where those are not to be had; [`Arena::fell_back`](super::Arena::fell_back) tells.
    pub fallback: bool,
    /// Where.
    pub numa: Numa,
    /// Whether all pages are taken from the machine now: an error here instead of a `SIGBUS` later. It takes about a second
    /// for 4 GiB.
    pub prefault: bool,
    /// Whether they are kept from being swapped out; they are taken now, too.
    pub lock: bool,
}

impl ArenaOptions {
    /// Usual pages, taken as they are touched.
    pub fn new(name: &str, len: NonZeroUsize) -> Self {
        Self {
            name: name.to_owned(),
            len,
            pages: Pages::Default,
            fallback: false,
            numa: Numa::Default,
            prefault: false,
            lock: false,
        }
    }
}
