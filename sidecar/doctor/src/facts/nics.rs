//! Network interfaces and their speed: what a transfer over TCP can reach at most.

use serde::Serialize;

use super::sysfs::Root;

/// A network interface.
#[derive(Debug, Clone, Serialize)]
pub struct Nic {
    /// Such as `eth0`.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Gb/s; `None` for interfaces that have no speed of their own (a container's veth, for one).
    pub gbit: Option<f64>,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// The driver; `None` for interfaces of software.
    pub driver: Option<String>,
}

/// Without the loopback.
pub(super) fn find(root: &Root) -> Vec<Nic> {
    let names = root.names("sys/class/net");
    names.iter().filter(|name| *name != "lo").filter_map(|name| nic(root, name)).collect()
}

fn nic(root: &Root, name: &str) -> Option<Nic> {
    let folder = format!("sys/class/net/{name}");
    let number = |file: &str| root.number(&format!("{folder}/{file}"));
    // In Mb/s; -1 where nobody knows.
    let speed = number("speed").and_then(|speed| u32::try_from(speed).ok()).filter(|speed| *speed > 0);
    Some(Nic {
        name: name.to_owned(),
        up: root.line(&format!("{folder}/operstate")).is_some_and(|state| state != "down"),
        gbit: speed.map(|speed| f64::from(speed) / 1000.0),
        mtu: number("mtu").and_then(|mtu| u32::try_from(mtu).ok())?,
        driver: root.link(&format!("{folder}/device/driver")),
    })
}
