//! Memory nodes: which there are, which is near a NIC or a device, and placing memory on them. A copy across nodes runs at
//! about half the speed, and a NIC's across them at less.

#![expect(unsafe_code, reason = "a system call that libc has no function for")]

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::ptr::NonNull;

use nix::errno::Errno;

use super::{ArenaProblem, Numa};

/// Nodes that the kernel can be configured for (`CONFIG_NODES_SHIFT` is at most 10).
const MAX_NODES: u32 = 1024;

/// Bits of a word of the kernel's node masks.
const WORD: u32 = 64;

/// The nodes that have memory, in order.
pub fn nodes() -> Vec<u32> {
    let known = ["has_memory", "online"].iter();
    let mut read =
        known.filter_map(|file| fs::read_to_string(format!("/sys/devices/system/node/{file}")).ok());
    // A kernel without nodes has one.
    read.next().map_or_else(|| vec![0], |text| listed(&text))
}

/// The node near a network interface, by its name (`eth0`), if the machine says.
pub fn node_of_nic(name: &str) -> Option<u32> {
    node_below(Path::new("/sys/class/net"), name)
}

/// The node near an RDMA device, by its name (`mlx5_0`), if the machine says.
pub fn node_of_rdma(name: &str) -> Option<u32> {
    node_below(Path::new("/sys/class/infiniband"), name)
}

/// The node near a device, by its place on the bus (`0000:1b:00.0`, as NVIDIA's tools write it, too), if the machine says.
pub fn node_of_pci(bus: &str) -> Option<u32> {
    node_in(&Path::new("/sys/bus/pci/devices").join(on_bus(bus)?))
}

/// The kernel writes four digits of a domain and small letters, where others write eight, or capitals.
fn on_bus(bus: &str) -> Option<String> {
    let (domain, rest) = bus.split_once(':')?;
    let domain = u32::from_str_radix(domain, 16).ok()?;
    let plain = rest.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'));
    plain.then(|| format!("{domain:04x}:{}", rest.to_ascii_lowercase()))
}

fn node_below(class: &Path, name: &str) -> Option<u32> {
    // A name with a slash would lead elsewhere.
    (!name.contains('/')).then(|| node_in(&class.join(name).join("device"))).flatten()
}

/// -1 is for a machine that does not say.
fn node_in(device: &Path) -> Option<u32> {
    fs::read_to_string(device.join("numa_node")).ok()?.trim().parse().ok()
}

/// `0-2,5` is 0, 1, 2, 5.
fn listed(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        Some(first..=last.min(MAX_NODES - 1))
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Says where pages of a mapping go that are touched from now on, by whichever process.
pub(super) fn place(base: NonNull<u8>, len: NonZeroUsize, numa: Numa) -> Result<(), ArenaProblem> {
    let known = nodes();
    let (mode, wanted) = match numa {
        Numa::Default => return Ok(()),
        Numa::Bind(node) if !known.contains(&node) => return Err(ArenaProblem::UnknownNode(node, known)),
        Numa::Bind(node) => (libc::MPOL_BIND, vec![node]),
        Numa::Interleave => (libc::MPOL_INTERLEAVE, known),
    };
    let mask = mask(&wanted);
    // SAFETY: a mapping of the caller's, whose bytes stay as they are, and a mask of as many bits as are said: the kernel
    // takes the number of bits plus one.
    let placed = unsafe {
        libc::syscall(libc::SYS_mbind, base.as_ptr(), len.get(), mode, mask.as_ptr(), MAX_NODES + 1, 0)
    };
    match Errno::result(placed) {
        Ok(_) => Ok(()),
        // The kernel's answer for a node that is known and not allowed here (cpuset).
        Err(Errno::EINVAL) => Err(ArenaProblem::UnknownNode(wanted[0], nodes())),
        // A kernel without nodes: wherever it is, it is where it should be.
        Err(Errno::ENOSYS) if wanted == [0] => Ok(()),
        Err(errno) => Err(ArenaProblem::NumaDenied(errno as i32)),
    }
}

fn mask(nodes: &[u32]) -> [u64; (MAX_NODES / WORD) as usize] {
    let mut mask = [0; (MAX_NODES / WORD) as usize];
    for node in nodes.iter().filter(|node| **node < MAX_NODES) {
        mask[(node / WORD) as usize] |= 1 << (node % WORD);
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_nodes_is_ranges_and_single_ones() {
        assert_eq!(listed("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(listed("0\n"), [0]);
        assert_eq!(listed("\n"), [0; 0]);
        assert_eq!(listed("1023-4294967295"), [1023], "no list is endless");
    }

    #[test]
    fn a_mask_has_a_bit_for_each_node() {
        let mask = mask(&[0, 63, 64, 1023]);
        assert_eq!((mask[0], mask[1], mask[15]), (1 | 1 << 63, 1, 1 << 63));
        assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 4);
    }

    #[test]
    fn a_place_on_the_bus_is_found_as_the_kernel_writes_it() {
        assert_eq!(on_bus("00000000:1B:00.0").unwrap(), "0000:1b:00.0");
        assert_eq!(on_bus("0001:c1:00.0").unwrap(), "0001:c1:00.0");
        assert_eq!(on_bus("0000:../../etc"), None);
        assert_eq!(on_bus(""), None);
    }

    #[test]
    fn a_device_that_does_not_say_has_no_node() {
        assert_eq!(node_of_nic("no-such-nic"), None);
        assert_eq!(node_of_nic("../../etc"), None);
        assert_eq!(node_of_nic("lo"), None, "it is no device");
    }
}
