//! Accelerators: whether a card can read and write their memory, or every byte goes through the host's first.

use super::{Finding, Level};
use crate::facts::{Facts, Maker};

/// From this kernel on, a driver can share device memory with a card as a dma-buf, without a module in between.
const DMABUF_SINCE: (u32, u32) = (5, 12);

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut makers: Vec<Maker> = Vec::new();
    for gpu in &facts.gpus {
        if !makers.contains(&gpu.maker) {
            makers.push(gpu.maker);
        }
    }
    makers.into_iter().flat_map(|maker| of(facts, maker)).collect()
}

fn of(facts: &Facts, maker: Maker) -> Vec<Finding> {
    let (name, count) = (maker.name(), facts.gpus.iter().filter(|gpu| gpu.maker == maker).count());
    if facts.gpus.iter().any(|gpu| gpu.maker == maker && gpu.driver.is_none()) {
        let what = format!("{count} {name} device(s), not all with a driver");
        return vec![
            Finding::new("gpu_no_driver", Level::Warn, what).fix("install the device's driver on the node"),
        ];
    }
    let mut findings = vec![Finding::new("gpu", Level::Good, format!("{count} {name} device(s)"))];
    let has_card = !facts.hcas.is_empty();
    // Of NVIDIA's drivers only the open kernel module shares memory as a dma-buf, and nothing here tells which it is.
    let reached = match maker {
        Maker::Nvidia => facts.has_module("nvidia_peermem"),
        Maker::Amd | Maker::Intel => kernel(&facts.kernel).is_some_and(|kernel| kernel >= DMABUF_SINCE),
        // Their memory is reached by their own interconnect.
        Maker::Google => true,
    };
    if has_card && !reached {
        let what = format!("no module that lets a network card reach {name} memory is loaded");
        let fix = match maker {
            Maker::Nvidia => {
                "modprobe nvidia_peermem on the node; with NVIDIA's open kernel modules and Linux 5.12 or later dma-buf \
                 serves as well, and this can be ignored"
            }
            _ => "use Linux 5.12 or later, for dma-buf",
        };
        findings.push(Finding::new("gpu_no_peer_memory", Level::Warn, what).fix(fix));
    }
    findings
}

fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}
