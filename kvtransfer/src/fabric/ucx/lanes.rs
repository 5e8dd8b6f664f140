//! What UCX's printed descriptions say: what it has found, and what it has chosen for an endpoint. Pure.
//!
//! An endpoint has several lanes, each for some of its uses. Bytes go over those for remote memory (`rma`, `rma_bw`). Without
//! one, UCX makes puts and gets of messages: correct, and several times slower.

use crate::fabric::{Copying, Lane};

/// `transport/device` of everything that UCX has found.
pub(super) fn found(context: &str) -> Vec<String> {
    // Such as `# resource 1  :  md 1  dev 1  flags -- tcp/eth0`.
    let resources =
        context.lines().filter(|line| line.trim_start_matches(['#', ' ']).starts_with("resource "));
    resources.filter_map(|line| Some(line.split_whitespace().next_back()?.to_owned())).collect()
}

/// Whether it is a device that copies by itself.
pub(super) fn is_rdma(transport: &str) -> bool {
    ["rc_", "dc_", "gga_", "srd"].iter().any(|start| transport.starts_with(start))
}

/// How an endpoint's bytes travel. `None` if the description is none.
pub(super) fn chosen(endpoint: &str) -> Option<Lane> {
    let lanes: Vec<Described<'_>> = endpoint.lines().filter_map(Described::of).collect();
    let remote = || lanes.iter().filter(|lane| lane.has("rma"));
    let direct = remote().find(|lane| is_rdma(lane.transport)).or_else(|| remote().next());
    let carrier = direct.or_else(|| lanes.iter().find(|lane| lane.has("am"))).or(lanes.first())?;
    let copying = match direct {
        None => Copying::Emulated,
        Some(lane) if lane.transport == "tcp" => Copying::Socket,
        Some(_) => Copying::ZeroCopy,
    };
    let (transport, device) = (carrier.transport.to_owned(), carrier.device.to_owned());
    Some(Lane { transport, device, copying, encrypted: false })
}

struct Described<'a> {
    transport: &'a str,
    device: &'a str,
    uses: &'a str,
}

impl<'a> Described<'a> {
    /// Of a line such as `# lane[1]:  5:cma/memory.0 md[4]  -> md[4]/cma/sysdev[255] seg 4294967295 rma_bw#0`.
    fn of(line: &'a str) -> Option<Self> {
        let (_, lane) = line.trim_start_matches(['#', ' ']).strip_prefix("lane[")?.split_once("]:")?;
        let (resource, uses) = lane.trim().split_once(' ')?;
        let (_, name) = resource.split_once(':')?;
        let (transport, device) = name.split_once('/')?;
        // The number of the path over the device.
        let device = device.rsplit_once('.').map_or(device, |(device, _)| device);
        Some(Self { transport, device, uses })
    }

    /// Whether it is used for that: `am`, or `am_bw#2`.
    fn has(&self, wanted: &str) -> bool {
        self.uses.split_whitespace().any(|word| {
            let word = word.split('#').next().unwrap_or(word);
            word == wanted || word.strip_prefix(wanted) == Some("_bw")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#\n# UCP endpoint \n#\n#               peer: <no debug data>\n";
    const TCP: &str =
        "#  lane[0]:  2:tcp/lo.0 md[1]   -> md[1]/tcp/sysdev[255] seg 4294967295 am keepalive wireup\n";

    fn shown(lanes: &str) -> String {
        chosen(&format!("{HEAD}{lanes}#\n")).unwrap().to_string()
    }

    #[test]
    fn a_lane_for_remote_memory_carries_the_bytes() {
        let cma = "#  lane[1]:  5:cma/memory.0 md[4]  -> md[4]/cma/sysdev[255] seg 4294967295 rma_bw#0\n";
        assert_eq!(shown(&format!("{TCP}{cma}")), "cma/memory (zero-copy)");
        let verbs =
            "#  lane[2]:  7:rc_mlx5/mlx5_0:1.0 md[5]  -> md[5]/ib/sysdev[0] rma#0 rma_bw#1 am am_bw#0\n";
        assert_eq!(shown(&format!("{TCP}{cma}{verbs}")), "rc_mlx5/mlx5_0:1 (zero-copy)");
    }

    #[test]
    fn without_one_it_is_software_emulation() {
        assert_eq!(shown(TCP), "tcp/lo (software emulation)");
        let old = "#  lane[0]:  1:tcp/eth0.0 md[1]  -> md[1]/tcp/sysdev[255] am am_bw#0 keepalive wireup\n";
        assert_eq!(shown(old), "tcp/eth0 (software emulation)");
        let datagrams =
            "#  lane[0]:  3:ud_verbs/mlx5_0:1.0 md[5] -> md[5]/ib/sysdev[0] am keepalive wireup\n";
        assert_eq!(shown(datagrams), "ud_verbs/mlx5_0:1 (software emulation)");
    }

    #[test]
    fn tcp_that_writes_in_place_is_a_socket_still() {
        assert_eq!(
            shown("# lane[0]: 0:tcp/lo.0 md[0] -> md[0]/tcp/sysdev[255] rma_bw#0 am wireup\n"),
            "tcp/lo (socket)"
        );
    }

    #[test]
    fn what_is_no_description_is_told() {
        assert_eq!(chosen(""), None);
        assert_eq!(chosen("# lane[0]\n# lane[1]: tcp\nlane[2]: 1:x y"), None);
    }

    #[test]
    fn what_was_found_is_listed() {
        let context = "# UCP context\n#     md 0  :  component 0  self \n#      resource 0  :  md 0  dev 0  flags -- \
                       self/memory\n#      resource 1  :  md 1  dev 1  flags -- rc_verbs/mlx5_0:1\n";
        assert_eq!(found(context), ["self/memory", "rc_verbs/mlx5_0:1"]);
        assert!(is_rdma("rc_verbs/mlx5_0:1") && !is_rdma("ud_verbs/mlx5_0:1") && !is_rdma("tcp/lo"));
    }
}
