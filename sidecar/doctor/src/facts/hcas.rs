//! RDMA devices: InfiniBand and RoCE cards as the kernel shows them.

use serde::Serialize;

use super::sysfs::Root;

/// An RDMA device.
#[derive(Debug, Clone, Serialize)]
pub struct Hca {
    /// Such as `mlx5_0`.
    pub name: String,
    /// What it calls itself.
    pub board: String,
    /// Of its firmware.
    pub firmware: String,
    /// Its bus address, such as `0000:17:00.0`.
    pub bus: Option<String>,
    /// The memory node it sits on; `None` if the machine has one only.
    pub numa_node: Option<u32>,
    /// Whether this process may use it: its `/dev/infiniband/uverbs*` is there, and may be opened.
    pub device_file: DeviceFile,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// The file through which a process uses an RDMA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceFile {
    /// It may be opened.
    Usable,
    /// It is there, and may not be opened.
    Forbidden,
    /// It is not there: containers get it from a device plugin.
    Missing,
}

/// A port.
#[derive(Debug, Clone, Serialize)]
pub struct Port {
    /// From 1.
    pub number: u32,
    /// Whether it is ready to carry traffic.
    pub active: bool,
    /// Its state, in the kernel's words.
    pub state: String,
    /// Bits a second, in Gb/s; 0 if the kernel does not say.
    pub gbit: f64,
    /// What is below.
    pub link: Link,
    /// The addresses that are set.
    pub gids: Vec<Gid>,
}

/// What carries a port's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// InfiniBand.
    InfiniBand,
    /// Ethernet: RoCE.
    Ethernet,
    /// Something else.
    Other,
}

/// An address of a port.
#[derive(Debug, Clone, Serialize)]
pub struct Gid {
    /// What a program names it by.
    pub index: u32,
    /// As eight groups of four digits.
    pub address: String,
    /// Whether its packets are routable (RoCE v2).
    pub roce_v2: bool,
    /// The network interface it belongs to, if that is in this network namespace.
    pub interface: Option<String>,
}

impl Gid {
    /// Whether it stands for an IPv4 address: what most fleets route.
    pub fn is_ipv4(&self) -> bool {
        self.address.starts_with("0000:0000:0000:0000:0000:ffff:")
    }
}

impl Hca {
    /// The fastest active port's speed, Gb/s.
    pub fn gbit(&self) -> f64 {
        self.ports.iter().filter(|port| port.active).map(|port| port.gbit).fold(0.0, f64::max)
    }
}

pub(super) fn find(root: &Root) -> Vec<Hca> {
    root.names("sys/class/infiniband").iter().map(|name| hca(root, name)).collect()
}

fn hca(root: &Root, name: &str) -> Hca {
    let folder = format!("sys/class/infiniband/{name}");
    let numbers = root.names(&format!("{folder}/ports"));
    Hca {
        name: name.to_owned(),
        board: root.line(&format!("{folder}/board_id")).unwrap_or_default(),
        firmware: root.line(&format!("{folder}/fw_ver")).unwrap_or_default(),
        bus: root.link(&format!("{folder}/device")),
        numa_node: root
            .number(&format!("{folder}/device/numa_node"))
            .and_then(|node| u32::try_from(node).ok()),
        device_file: device_file(root, name),
        ports: numbers.iter().filter_map(|number| port(root, &folder, number.parse().ok()?)).collect(),
    }
}

/// `/sys/class/infiniband_verbs/uverbsN/ibdev` names the device whose file is `/dev/infiniband/uverbsN`.
fn device_file(root: &Root, name: &str) -> DeviceFile {
    let folder = "sys/class/infiniband_verbs";
    let of = |file: &String| root.line(&format!("{folder}/{file}/ibdev")).as_deref() == Some(name);
    let Some(file) = root.names(folder).into_iter().find(of) else { return DeviceFile::Missing };
    let file = format!("dev/infiniband/{file}");
    match (root.has(&file), root.usable(&file)) {
        (_, true) => DeviceFile::Usable,
        (true, false) => DeviceFile::Forbidden,
        (false, false) => DeviceFile::Missing,
    }
}

fn port(root: &Root, hca: &str, number: u32) -> Option<Port> {
    let folder = format!("{hca}/ports/{number}");
    // Such as `4: ACTIVE` and `400 Gb/sec (4X NDR)`.
    let state = root.line(&format!("{folder}/state"))?;
    let rate = root.line(&format!("{folder}/rate")).unwrap_or_default();
    let link = match root.line(&format!("{folder}/link_layer")).as_deref() {
        Some("InfiniBand") => Link::InfiniBand,
        Some("Ethernet") => Link::Ethernet,
        _ => Link::Other,
    };
    let indices = root.names(&format!("{folder}/gids"));
    Some(Port {
        number,
        active: state.ends_with("ACTIVE"),
        state: state.split_once(": ").map_or(state.as_str(), |(_, word)| word).to_owned(),
        gbit: rate.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0),
        link,
        gids: indices.iter().filter_map(|index| gid(root, &folder, index.parse().ok()?)).collect(),
    })
}

fn gid(root: &Root, port: &str, index: u32) -> Option<Gid> {
    let address = root.line(&format!("{port}/gids/{index}"))?;
    // Empty places of the table read as zeroes.
    address.chars().any(|digit| digit != '0' && digit != ':').then(|| Gid {
        index,
        roce_v2: root.line(&format!("{port}/gid_attrs/types/{index}")).as_deref() == Some("RoCE v2"),
        interface: root.line(&format!("{port}/gid_attrs/ndevs/{index}")),
        address,
    })
}
