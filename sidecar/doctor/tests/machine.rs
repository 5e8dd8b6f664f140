//! Facts are read from the kernel's files as they really look.
#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use kvferry_doctor::facts::{DeviceFile, Facts, Link, Maker, Root};
use kvferry_doctor::probe::Probed;

/// A machine made of files, gone with the test.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("kvferry-doctor-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, name: &str, target: &str) -> &Self {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(Path::new(target), path).unwrap();
        self
    }

    fn facts(&self) -> Facts {
        let environment = [("UCX_TLS", "rc"), ("HOME", "/nowhere")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let none = || "none".to_owned();
        Facts::gather(
            &Root::new(&self.0),
            environment.into_iter(),
            Probed::Unusable { why: none() },
            Probed::Unusable { why: none() },
        )
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// One NVIDIA card with RoCE, as ConnectX-7 shows itself.
fn with_card(name: &str) -> Machine {
    let machine = Machine::new(name);
    let hca = "sys/class/infiniband/mlx5_0";
    machine
        .file(&format!("{hca}/board_id"), "MT_0000000838\n")
        .file(&format!("{hca}/fw_ver"), "28.39.1002\n")
        .link(&format!("{hca}/device"), "../../../bus/pci/devices/0000:17:00.0")
        .file("sys/bus/pci/devices/0000:17:00.0/class", "0x020000\n")
        .file("sys/bus/pci/devices/0000:17:00.0/vendor", "0x15b3\n")
        .file("sys/bus/pci/devices/0000:17:00.0/numa_node", "1\n")
        .file(&format!("{hca}/ports/1/state"), "4: ACTIVE\n")
        .file(&format!("{hca}/ports/1/rate"), "400 Gb/sec (4X NDR)\n")
        .file(&format!("{hca}/ports/1/link_layer"), "Ethernet\n")
        .file(&format!("{hca}/ports/1/gids/0"), "fe80:0000:0000:0000:0000:0000:0000:0001\n")
        .file(&format!("{hca}/ports/1/gids/3"), "0000:0000:0000:0000:0000:ffff:0a00:0001\n")
        .file(&format!("{hca}/ports/1/gids/4"), "0000:0000:0000:0000:0000:0000:0000:0000\n")
        .file(&format!("{hca}/ports/1/gid_attrs/types/0"), "IB/RoCE v1\n")
        .file(&format!("{hca}/ports/1/gid_attrs/types/3"), "RoCE v2\n")
        .file(&format!("{hca}/ports/1/gid_attrs/ndevs/3"), "eth1\n")
        .file("sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0\n");
    machine
}

#[test]
fn a_card_is_read_with_its_ports_speed_and_addresses() {
    let machine = with_card("card");
    machine.file("dev/infiniband/uverbs0", "");
    let facts = machine.facts();
    let [hca] = facts.hcas.as_slice() else { panic!("one card: {:?}", facts.hcas) };
    assert_eq!((hca.name.as_str(), hca.numa_node, hca.device_file), ("mlx5_0", Some(1), DeviceFile::Usable));
    let port = &hca.ports[0];
    assert_eq!((port.active, port.link, port.state.as_str()), (true, Link::Ethernet, "ACTIVE"));
    assert!((hca.gbit() - 400.0).abs() < f64::EPSILON);
    let gids: Vec<_> = port.gids.iter().map(|gid| (gid.index, gid.roce_v2, gid.is_ipv4())).collect();
    assert_eq!(gids, [(0, false, false), (3, true, true)], "empty places are left out");
    assert_eq!(port.gids[1].interface.as_deref(), Some("eth1"));
    assert_eq!(facts.absent, [], "the card on the bus is the device");
}

#[test]
fn without_its_device_file_a_card_is_there_and_of_no_use() {
    assert_eq!(with_card("no-file").facts().hcas[0].device_file, DeviceFile::Missing);
}

#[test]
fn a_card_on_the_bus_without_a_device_is_absent() {
    let machine = Machine::new("absent");
    machine
        .file("sys/bus/pci/devices/0000:17:00.0/class", "0x020700\n")
        .file("sys/bus/pci/devices/0000:17:00.0/vendor", "0x15b3\n")
        .link("sys/bus/pci/devices/0000:17:00.0/driver", "../../drivers/mlx5_core")
        .file("sys/bus/pci/devices/0000:18:00.0/class", "0x020000\n")
        .file("sys/bus/pci/devices/0000:18:00.0/vendor", "0x8086\n");
    let absent = machine.facts().absent;
    assert_eq!(absent.len(), 1, "an ordinary network card is none: {absent:?}");
    assert_eq!((absent[0].bus.as_str(), absent[0].driver.as_deref()), ("0000:17:00.0", Some("mlx5_core")));
}

#[test]
fn accelerators_are_told_from_the_boards_own_display() {
    let machine = Machine::new("gpus");
    for (bus, class, vendor) in [
        ("0000:01:00.0", "0x030200", "0x10de"),
        ("0000:02:00.0", "0x120000", "0x1002"),
        ("0000:03:00.0", "0x030000", "0x8086"),
        ("0000:04:00.0", "0x010802", "0x10de"),
    ] {
        machine.file(&format!("sys/bus/pci/devices/{bus}/class"), class);
        machine.file(&format!("sys/bus/pci/devices/{bus}/vendor"), vendor);
    }
    let makers: Vec<_> = machine.facts().gpus.iter().map(|gpu| gpu.maker).collect();
    assert_eq!(makers, [Maker::Nvidia, Maker::Amd]);
}

#[test]
fn interfaces_modules_and_settings_are_read_and_others_left_out() {
    let machine = Machine::new("rest");
    machine
        .file("sys/class/net/eth0/speed", "25000\n")
        .file("sys/class/net/eth0/mtu", "9000\n")
        .file("sys/class/net/eth0/operstate", "up\n")
        .file("sys/class/net/veth1/speed", "-1\n")
        .file("sys/class/net/veth1/mtu", "1500\n")
        .file("sys/class/net/lo/mtu", "65536\n")
        .file("sys/module/nvidia_peermem/refcnt", "0\n")
        .file("sys/module/snd/refcnt", "0\n")
        .file("proc/sys/kernel/yama/ptrace_scope", "1\n");
    let facts = machine.facts();
    let nics: Vec<_> = facts.nics.iter().map(|nic| (nic.name.as_str(), nic.gbit, nic.mtu)).collect();
    assert_eq!(nics, [("eth0", Some(25.0), 9000), ("veth1", None, 1500)]);
    assert_eq!(facts.modules, ["nvidia_peermem"]);
    assert_eq!(facts.limits.ptrace_scope, Some(1));
    assert_eq!(facts.environment.keys().collect::<Vec<_>>(), ["UCX_TLS"]);
}

#[test]
fn a_machine_that_shows_nothing_is_no_error() {
    let facts = Machine::new("empty").facts();
    assert!(facts.hcas.is_empty() && facts.nics.is_empty() && facts.gpus.is_empty());
}
