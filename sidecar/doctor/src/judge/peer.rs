//! What a real transfer has shown: which lane it took, and how that compares with what the hardware can.

use super::{Finding, Level, Want};
use crate::facts::{DeviceFile, Facts};
use crate::peer::Measured;

/// Of the line rate, what a large transfer reaches when nothing is in its way: headers and an imperfect pipeline cost the
/// rest (spec/field.md 3.2: 95 to 99 % in published figures).
const GOOD_SHARE: f64 = 0.8;

/// Lanes within a host, which no network card limits.
const WITHIN: [&str; 1] = ["shm"];

pub(super) fn judge(facts: &Facts, measured: &Measured, want: Want) -> Vec<Finding> {
    let chosen = &measured.chosen;
    let (peer, lane) = (&measured.peer, &chosen.lane);
    let figures = format!(
        "{:.2} GB/s from it, {:.2} GB/s to it, {:.0} us for 16 KiB",
        chosen.read, chosen.write, chosen.latency_us
    );
    let within = WITHIN.contains(&chosen.fabric.as_str());
    let rdma = is_rdma(lane);
    let mut findings = Vec::new();
    let has_card = facts.hcas.iter().any(|hca| hca.device_file == DeviceFile::Usable);
    if rdma || within || !(has_card || want == Want::Rdma) {
        findings.push(Finding::new(
            "peer_lane",
            Level::Good,
            format!("transfers with {peer} go over {lane}: {figures}"),
        ));
    } else {
        let what = format!("transfers with {peer} go over {lane}, not over RDMA: {figures}");
        let why = measured.refused.iter().find(|refused| refused.fabric == "ucx");
        let fix = match why {
            Some(refused) => format!("UCX says: {}; run the doctor on the peer, too", refused.why),
            None => "run the doctor on the peer, too: both sides need a card on the same network".to_owned(),
        };
        findings.push(Finding::new("peer_lane", want.level(), what).fix(fix));
    }
    if !within {
        findings.push(against_the_line(facts, measured, rdma));
    }
    findings.extend(measured.each.iter().filter(|each| each.fabric != chosen.fabric).map(|each| {
        let what = format!(
            "over {} it would be {:.2} GB/s from it, {:.2} GB/s to it, {:.0} us for 16 KiB",
            each.lane, each.read, each.write, each.latency_us
        );
        Finding::new("peer_other_lane", Level::Good, what)
    }));
    findings.extend(measured.refused.iter().map(|refused| {
        Finding::new(
            "peer_lane_refused",
            Level::Note,
            format!("no {} lane to it: {}", refused.fabric, refused.why),
        )
    }));
    findings
}

/// Whether a device moves the bytes, by the transport's name: what follows is the device.
pub(super) fn is_rdma(lane: &str) -> bool {
    ["rc_", "dc_", "gga_", "srd"].iter().any(|transport| lane.starts_with(transport))
}

fn against_the_line(facts: &Facts, measured: &Measured, rdma: bool) -> Finding {
    let chosen = &measured.chosen;
    let card = || facts.hcas.iter().find(|hca| chosen.lane.contains(&hca.name)).map(crate::facts::Hca::gbit);
    let nic = || {
        let up = facts.nics.iter().filter(|nic| nic.up);
        up.filter_map(|nic| nic.gbit).max_by(f64::total_cmp)
    };
    let gbit = if rdma { card() } else { nic() }.filter(|gbit| *gbit > 0.0);
    let Some(gbit) = gbit else {
        let what = "how fast the way could be is not known: its card or interface does not say";
        return Finding::new("peer_line_rate_unknown", Level::Note, what);
    };
    let line = gbit / 8.0;
    let share = chosen.read.min(chosen.write) / line;
    let what = format!("that is {:.0} % of the line's {line:.1} GB/s", share * 100.0);
    if share >= GOOD_SHARE {
        return Finding::new("peer_speed", Level::Good, what);
    }
    let fix = if rdma {
        "look at the card's PCIe link (lspci -vv: LnkSta), its memory node against the process', MTU, and flow control (PFC, \
         ECN) for RoCE"
    } else {
        "one stream is bound by one core: give TCP more streams and threads, and look at MTU and at other traffic"
    };
    Finding::new("peer_speed", Level::Warn, what).fix(fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::tests::good;
    use crate::peer::{Figures, Refused};

    fn over(fabric: &str, lane: &str, rate: f64) -> Measured {
        let figures = |fabric: &str, lane: &str, rate| Figures {
            fabric: fabric.into(),
            lane: lane.into(),
            zero_copy: fabric != "tcp",
            read: rate,
            write: rate,
            latency_us: 20.0,
        };
        Measured {
            peer: "other".into(),
            chosen: figures(fabric, lane, rate),
            each: vec![figures(fabric, lane, rate), figures("tcp", "tcp/eth0 (socket)", 2.5)],
            refused: vec![],
        }
    }

    fn found(measured: &Measured, want: Want) -> Vec<(&'static str, Level)> {
        judge(&good(), measured, want).iter().map(|found| (found.code, found.level)).collect()
    }

    #[test]
    fn rdma_at_line_rate_is_good_and_the_other_lane_is_shown_beside_it() {
        let measured = over("ucx", "rc_mlx5/mlx5_0:1 (zero-copy)", 48.0);
        let expected =
            [("peer_lane", Level::Good), ("peer_speed", Level::Good), ("peer_other_lane", Level::Good)];
        assert_eq!(found(&measured, Want::Rdma), expected);
    }

    #[test]
    fn rdma_far_below_the_line_is_a_warning_that_says_where_to_look() {
        let findings = judge(&good(), &over("ucx", "rc_mlx5/mlx5_0:1 (zero-copy)", 12.0), Want::Auto);
        let speed = findings.iter().find(|found| found.code == "peer_speed").unwrap();
        assert_eq!(speed.level, Level::Warn);
        assert!(speed.what.contains("24 %") && speed.fix.as_ref().unwrap().contains("PCIe"));
    }

    #[test]
    fn tcp_where_there_is_a_card_is_a_warning_and_a_failure_if_rdma_is_wanted() {
        let mut measured = over("tcp", "tcp/eth0 (socket)", 3.0);
        measured.refused.push(Refused { fabric: "ucx", why: "no way".into() });
        assert_eq!(found(&measured, Want::Auto)[0], ("peer_lane", Level::Warn));
        assert_eq!(found(&measured, Want::Rdma)[0], ("peer_lane", Level::Fail));
        assert!(found(&measured, Want::Auto).contains(&("peer_lane_refused", Level::Note)));
    }

    #[test]
    fn within_a_host_no_line_rate_is_asked_for() {
        let codes = found(&over("shm", "shm (zero-copy)", 8.0), Want::Auto);
        assert_eq!(codes, [("peer_lane", Level::Good), ("peer_other_lane", Level::Good)]);
    }
}
