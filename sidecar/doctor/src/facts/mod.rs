//! What is so on this machine, as it was found: no opinion yet. Everything is read from one root, so that a test can
//! make any machine out of a folder.

mod gpus;
mod hcas;
mod limits;
mod nics;
mod pci;
mod sysfs;

use std::collections::BTreeMap;

use serde::Serialize;

pub use gpus::{Gpu, Maker};
pub use hcas::{DeviceFile, Gid, Hca, Link, Port};
pub use limits::{Limits, UNLIMITED};
pub use nics::Nic;
pub use pci::Absent;
pub use sysfs::Root;

use crate::probe::{NixlFound, Probed, UcxFound};

/// Kernel modules that decide whether a network card reaches an accelerator's memory, or is driven at all.
const MODULES: [&str; 11] = [
    "ib_core",
    "ib_uverbs",
    "rdma_cm",
    "mlx5_ib",
    "mlx4_ib",
    "bnxt_re",
    "irdma",
    "efa",
    "nvidia",
    "nvidia_peermem",
    "amdgpu",
];

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// The kernel's release.
    pub kernel: String,
    /// RDMA devices that this process can see.
    pub hcas: Vec<Hca>,
    /// Cards on the bus that have no RDMA device here.
    pub absent: Vec<Absent>,
    /// Network interfaces, without those of software.
    pub nics: Vec<Nic>,
    /// Accelerators.
    pub gpus: Vec<Gpu>,
    /// Of the kernel modules that matter, those that are loaded.
    pub modules: Vec<String>,
    /// Limits of this process and machine.
    pub limits: Limits,
    /// Variables that change what UCX and NIXL do.
    pub environment: BTreeMap<String, String>,
    /// UCX, asked in a process of its own.
    pub ucx: Probed<UcxFound>,
    /// NIXL, likewise.
    pub nixl: Probed<NixlFound>,
}

impl Facts {
    /// Of this machine. `environment`: the process' own.
    pub fn gather(
        root: &Root,
        environment: impl Iterator<Item = (String, String)>,
        ucx: Probed<UcxFound>,
        nixl: Probed<NixlFound>,
    ) -> Self {
        let hcas = hcas::find(root);
        Self {
            kernel: root.line("proc/sys/kernel/osrelease").unwrap_or_default(),
            absent: pci::without_driver(root, &hcas),
            nics: nics::find(root),
            gpus: gpus::find(root),
            modules: MODULES
                .into_iter()
                .filter(|name| root.has(&format!("sys/module/{name}")))
                .map(Into::into)
                .collect(),
            limits: Limits::of(root),
            environment: environment.filter(|(name, _)| matters(name)).collect(),
            hcas,
            ucx,
            nixl,
        }
    }

    /// Whether a kernel module is loaded.
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.iter().any(|module| module == name)
    }
}

fn matters(name: &str) -> bool {
    name.starts_with("UCX_") || name.starts_with("NIXL_") || name == "LD_LIBRARY_PATH"
}
