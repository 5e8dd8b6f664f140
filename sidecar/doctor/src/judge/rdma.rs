//! RDMA from the card up: card, driver, device file, port, address. The first thing that is missing hides the rest.

use super::{Finding, Level, Want};
use crate::facts::{DeviceFile, Facts, Hca, Link, Port};

/// What UCX can use, over devices that have an active port.
pub(super) fn usable(facts: &Facts) -> Vec<String> {
    let Some(ucx) = facts.ucx.found() else { return Vec::new() };
    ucx.rdma.clone()
}

pub(super) fn judge(facts: &Facts, want: Want) -> Vec<Finding> {
    if facts.hcas.is_empty() {
        return vec![no_device(facts, want)];
    }
    facts.hcas.iter().flat_map(|hca| device(hca, want)).collect()
}

fn no_device(facts: &Facts, want: Want) -> Finding {
    let Some(card) = facts.absent.first() else {
        let level = if want == Want::Rdma { Level::Fail } else { Level::Note };
        return Finding::new("rdma_no_card", level, "this machine has no RDMA card").fix(
            "for RDMA, schedule the pod on a node that has one; between hosts, transfers use TCP until then",
        );
    };
    let (bus, others) = (&card.bus, facts.absent.len() - 1);
    let more = if others == 0 { String::new() } else { format!(" and {others} more") };
    match &card.driver {
        None => {
            let what = format!("the RDMA card at {bus}{more} has no driver");
            Finding::new("rdma_no_driver", want.level(), what)
                .fix("load the card's driver on the node (mlx5_core and mlx5_ib for NVIDIA, efa for Amazon)")
        }
        Some(driver) => {
            let what =
                format!("the card at {bus}{more} is driven by {driver}, but no RDMA device is visible here");
            Finding::new("rdma_no_device", want.level(), what).fix(
                "load the RDMA half of the driver on the node (mlx5_ib for mlx5_core); in exclusive RDMA namespaces \
                 (rdma system netns), give the device to the pod's namespace",
            )
        }
    }
}

fn device(hca: &Hca, want: Want) -> Vec<Finding> {
    let name = &hca.name;
    match hca.device_file {
        DeviceFile::Missing => {
            let what = format!("{name} is there, but its /dev/infiniband file is not in this container");
            return vec![Finding::new("rdma_no_device_file", want.level(), what).fix(
                "request the device in the pod's resources (such as rdma/hca or the SR-IOV plugin's name), or mount \
                 /dev/infiniband",
            )];
        }
        DeviceFile::Forbidden => {
            let what = format!("{name} is there, but this process may not open its /dev/infiniband file");
            return vec![Finding::new("rdma_forbidden", want.level(), what).fix(
                "run as a user that may (the files are usually 0666), and let a device plugin grant it: a mount alone \
                 does not pass the container's device rules",
            )];
        }
        DeviceFile::Usable => {}
    }
    let (active, idle): (Vec<&Port>, Vec<&Port>) = hca.ports.iter().partition(|port| port.active);
    if active.is_empty() {
        let states: Vec<_> = idle.iter().map(|port| format!("port {} {}", port.number, port.state)).collect();
        let what = format!("{name} has no active port ({})", states.join(", "));
        return vec![Finding::new("rdma_port_down", want.level(), what).fix(
            "check cable and switch; InfiniBand ports that stay INIT wait for a subnet manager, Ethernet ports for \
             their interface (ip link set up)",
        )];
    }
    active.into_iter().map(|port| ready(name, port, want)).collect()
}

fn ready(name: &str, port: &Port, want: Want) -> Finding {
    let (number, gbit) = (port.number, port.gbit);
    if port.link != Link::Ethernet {
        let what = format!("{name}:{number} is active: InfiniBand, {gbit} Gb/s");
        return Finding::new("rdma_port", Level::Good, what);
    }
    let routable = || port.gids.iter().filter(|gid| gid.roce_v2);
    let here = || routable().filter(|gid| gid.interface.is_some());
    // IPv4 addresses are what fleets' switches most often route, and what UCX takes first.
    match here().find(|gid| gid.is_ipv4()).or_else(|| here().next()) {
        Some(gid) => {
            let interface = gid.interface.as_deref().unwrap_or_default();
            let what = format!(
                "{name}:{number} is active: RoCE v2, {gbit} Gb/s, GID index {} on {interface}",
                gid.index
            );
            Finding::new("rdma_port", Level::Good, what)
        }
        None if routable().next().is_some() => {
            let what = format!("{name}:{number} has RoCE v2 addresses, but none in this network namespace");
            Finding::new("rdma_gid_elsewhere", want.level(), what).fix(
                "give the pod the interface behind the card (SR-IOV, macvlan or host-device attachment), or run it with \
                 hostNetwork",
            )
        }
        None => {
            let what = format!("{name}:{number} is Ethernet and has no RoCE v2 address");
            Finding::new("rdma_no_gid", want.level(), what).fix(
                "give its network interface an IP address; RoCE v1 is not routed and not used (UCX_IB_GID_INDEX names \
                 an address by hand)",
            )
        }
    }
}
