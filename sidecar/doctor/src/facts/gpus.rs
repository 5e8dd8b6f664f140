//! Accelerators on the bus, and whether this process may use them.

use serde::Serialize;

use super::sysfs::Root;

/// Who made an accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    /// Reached through CUDA.
    Nvidia,
    /// Reached through ROCm.
    Amd,
    /// Reached through Level Zero.
    Intel,
    /// A TPU.
    Google,
}

impl Maker {
    /// As people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "NVIDIA",
            Self::Amd => "AMD",
            Self::Intel => "Intel",
            Self::Google => "Google TPU",
        }
    }
}

/// An accelerator.
#[derive(Debug, Clone, Serialize)]
pub struct Gpu {
    /// Its bus address.
    pub bus: String,
    /// Who made it.
    pub maker: Maker,
    /// The memory node it sits on.
    pub numa_node: Option<u32>,
    /// Its driver, if it has one.
    pub driver: Option<String>,
}

/// Display controllers (0x03..) and processing accelerators (0x12..). Intel's display controllers are most often of the
/// board, so of Intel only accelerators count.
const DISPLAY: i64 = 0x03;
const ACCELERATOR: i64 = 0x12;

pub(super) fn find(root: &Root) -> Vec<Gpu> {
    root.names("sys/bus/pci/devices").into_iter().filter_map(|bus| gpu(root, bus)).collect()
}

fn gpu(root: &Root, bus: String) -> Option<Gpu> {
    let folder = format!("sys/bus/pci/devices/{bus}");
    let number = |file: &str| root.number(&format!("{folder}/{file}"));
    let class = number("class")? >> 16;
    let maker = match (number("vendor")?, class) {
        (0x10de, DISPLAY | ACCELERATOR) => Maker::Nvidia,
        (0x1002, DISPLAY | ACCELERATOR) => Maker::Amd,
        (0x8086, ACCELERATOR) => Maker::Intel,
        (0x1ae0, ACCELERATOR) => Maker::Google,
        _ => return None,
    };
    let numa_node = number("numa_node").and_then(|node| u32::try_from(node).ok());
    Some(Gpu { maker, numa_node, driver: root.link(&format!("{folder}/driver")), bus })
}
