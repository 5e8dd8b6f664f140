//! The bus: tells a machine without RDMA cards from one whose cards were not given to this container.

use serde::Serialize;

use super::hcas::Hca;
use super::sysfs::Root;

/// InfiniBand controllers, whoever makes them.
const CLASS_INFINIBAND: i64 = 0x0207;

/// Ethernet and other network controllers: RDMA cards if their maker makes those only.
const CLASSES_NETWORK: [i64; 2] = [0x0200, 0x0280];

/// Makers whose network cards of the last decade all do RDMA: Mellanox (NVIDIA), and Amazon's EFA by its own numbers.
const MELLANOX: i64 = 0x15b3;
const AMAZON: i64 = 0x1d0f;
const EFA: [i64; 4] = [0xefa0, 0xefa1, 0xefa2, 0xefa3];

/// A card that can do RDMA and has no RDMA device in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Absent {
    /// Its bus address.
    pub bus: String,
    /// Its driver, if it has one.
    pub driver: Option<String>,
}

pub(super) fn without_driver(root: &Root, hcas: &[Hca]) -> Vec<Absent> {
    let cards = root.names("sys/bus/pci/devices").into_iter().filter(|bus| does_rdma(root, bus));
    let absent = cards.filter(|bus| hcas.iter().all(|hca| hca.bus.as_deref() != Some(bus)));
    absent
        .map(|bus| Absent { driver: root.link(&format!("sys/bus/pci/devices/{bus}/driver")), bus })
        .collect()
}

fn does_rdma(root: &Root, bus: &str) -> bool {
    let number = |file: &str| root.number(&format!("sys/bus/pci/devices/{bus}/{file}")).unwrap_or(0);
    // Its last two digits tell programming interfaces apart.
    let class = number("class") >> 8;
    class == CLASS_INFINIBAND
        || (number("vendor") == MELLANOX && CLASSES_NETWORK.contains(&class))
        || (number("vendor") == AMAZON && EFA.contains(&number("device")))
}
