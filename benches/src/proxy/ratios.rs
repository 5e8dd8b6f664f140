//! The goals: each is one number made of two measurements of the same run, with the value it must reach. A number whose
//! other side was not measured is left out with a reason, never guessed.

use std::collections::BTreeMap;

use super::figures::Figures;
use super::measure::MemorySample;
use super::plan::{FRAMES, MANY_STREAMS, ONE_CONNECTION, THROUGHPUT};
use kvferry_bench_common::Ratio;

use crate::num::{float, ratio};

/// The fewest requests of which a 99th percentile is told: ten of them lie beyond it.
const TAIL_REQUESTS: u64 = 1000;

/// All that the goals are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured<'a> {
    /// Figures of all cells and sides.
    pub figures: &'a [Figures],
    /// Memory of the proxies.
    pub memory: &'a [MemorySample],
}

impl Measured<'_> {
    /// The figures of one side in one cell. Cells with wrong answers do not count: a proxy that fails fast is not fast.
    fn at(&self, cell: &str, side: &str) -> Option<&Figures> {
        self.figures
            .iter()
            .find(|figures| figures.cell == cell && figures.side == side && figures.errors == 0)
    }

    /// The same, where there are enough requests for a 99th percentile.
    fn tail(&self, cell: &str, side: &str) -> Option<&Figures> {
        self.at(cell, side).filter(|figures| figures.requests >= TAIL_REQUESTS)
    }

    fn memory(&self, side: &str) -> Option<&MemorySample> {
        self.memory.iter().find(|sample| sample.side == side)
    }

    fn throughput(&self, size: &str) -> Option<f64> {
        let cell = format!("{THROUGHPUT}-{size}");
        let of = |side| self.at(&cell, side)?.requests_per_cpu_s;
        ratio(of("sidecar-pd")?, of("vllm-router")?)
    }
}

type Compute = fn(&Measured<'_>) -> Option<f64>;

/// Name, goal, whether at least, and how it is computed.
const GOALS: [(&str, f64, bool, Compute); 8] = [
    ("pd_rps_per_cpu_vs_vllm_router_1kb", 2.0, true, |m| m.throughput("1kb")),
    ("pd_rps_per_cpu_vs_vllm_router_220kb", 2.5, true, |m| m.throughput("220kb")),
    ("pd_p50_one_connection_vs_vllm_router", 0.7, false, |m| {
        let of = |side| Some(m.at(ONE_CONNECTION, side)?.total.p50_us);
        ratio(of("sidecar-pd")?, of("vllm-router")?)
    }),
    ("pd_added_p99_2000_streams_vs_vllm_router", 0.5, false, |m| {
        let of = |side| Some(m.tail(MANY_STREAMS, side)?.first_byte_added?.p99_us);
        ratio(of("sidecar-pd")?, of("vllm-router")?)
    }),
    ("pd_added_p50_vs_forwarder_hop", 3.0, false, |m| {
        let of = |side| Some(m.at(ONE_CONNECTION, side)?.total_added?.p50_us);
        ratio(of("sidecar-pd")?, of("forwarder")?)
    }),
    ("sse_cpu_per_frame_vs_forwarder", 2.0, false, |m| {
        let of = |side| m.at(FRAMES, side)?.frames_per_cpu_s;
        ratio(of("forwarder")?, of("sidecar-pd")?)
    }),
    ("rss_idle_mib", 16.0, false, |m| Some(float(m.memory("sidecar-pd")?.idle_kib) / 1024.0)),
    ("rss_per_idle_stream_kib", 32.0, false, |m| Some(m.memory("sidecar-pd")?.per_stream_kib)),
];

/// Comparisons that have no goal but belong beside those that have.
const BESIDES: [(&str, Compute); 9] = [
    ("pd_frame_added_p99_2000_streams_vs_vllm_router", |m| {
        let of = |side| Some(m.tail(MANY_STREAMS, side)?.transit_added?.p99_us);
        ratio(of("sidecar-pd")?, of("vllm-router")?)
    }),
    ("pd_cpu_per_frame_vs_vllm_router", |m| {
        let of = |side| m.at(FRAMES, side)?.frames_per_cpu_s;
        ratio(of("vllm-router")?, of("sidecar-pd")?)
    }),
    // Together they show that no frame waits for another: joined frames beyond those that already reach a direct client
    // in one read, and how much longer a frame is under way.
    ("pd_frames_joined_percent", |m| Some(100.0 * m.at(FRAMES, "sidecar-pd")?.joined_share)),
    ("direct_pd_frames_joined_percent", |m| Some(100.0 * m.at(FRAMES, "direct-pd")?.joined_share)),
    ("pd_frame_added_p99_us", |m| Some(m.at(FRAMES, "sidecar-pd")?.transit_added?.p99_us)),
    ("pd_frame_max_us", |m| Some(m.at(FRAMES, "sidecar-pd")?.transit_max_us)),
    ("passthrough_rps_per_cpu_vs_forwarder_1kb", |m| {
        let of = |side| m.at("closed-c32-1kb", side)?.requests_per_cpu_s;
        ratio(of("sidecar")?, of("forwarder")?)
    }),
    ("rss_idle_vs_vllm_router", |m| {
        let of = |side| Some(float(m.memory(side)?.idle_kib));
        ratio(of("sidecar-pd")?, of("vllm-router")?)
    }),
    ("rss_per_idle_stream_vs_vllm_router", |m| {
        let of = |side| Some(m.memory(side)?.per_stream_kib);
        ratio(of("sidecar-pd")?, of("vllm-router")?)
    }),
];

/// The goals that could be computed, and the names of those that could not.
pub(super) fn ratios(measured: Measured<'_>) -> (BTreeMap<&'static str, Ratio>, Vec<&'static str>) {
    let mut known = BTreeMap::new();
    let mut missing = Vec::new();
    for (name, goal, at_least, compute) in GOALS {
        match compute(&measured) {
            // A negative one is a difference that drowned in noise: no figure at all, let alone a good one.
            Some(value) if value >= 0.0 => {
                known.insert(name, Ratio { value, goal, at_least });
            }
            _ => missing.push(name),
        }
    }
    (known, missing)
}

/// The comparisons without a goal that could be computed.
pub(super) fn besides(measured: Measured<'_>) -> BTreeMap<&'static str, f64> {
    BESIDES.iter().filter_map(|(name, compute)| Some((*name, compute(&measured)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::figures::{figures, tests::sample};
    use super::*;

    fn measured() -> Vec<Figures> {
        let samples = [
            sample(ONE_CONNECTION, "direct", 0, None, 10.0),
            sample(ONE_CONNECTION, "direct-pd", 0, None, 20.0),
            sample(ONE_CONNECTION, "forwarder", 0, Some(0.1), 40.0),
            sample(ONE_CONNECTION, "sidecar-pd", 0, Some(0.2), 80.0),
            sample("closed-c32-1kb", "sidecar-pd", 0, Some(0.1), 80.0),
            sample("closed-c32-1kb", "vllm-router", 0, Some(0.3), 80.0),
        ];
        let of = |cell, side, direct| figures(&samples, cell, side, direct).unwrap();
        vec![
            of(ONE_CONNECTION, "forwarder", "direct"),
            of(ONE_CONNECTION, "sidecar-pd", "direct-pd"),
            of("closed-c32-1kb", "sidecar-pd", "direct-pd"),
            of("closed-c32-1kb", "vllm-router", "direct-pd"),
        ]
    }

    #[test]
    fn ratios_are_computed_where_both_sides_were_measured_and_left_out_elsewhere() {
        let figures = measured();
        let (known, missing) = ratios(Measured { figures: &figures, memory: &[] });
        assert!((known["pd_added_p50_vs_forwarder_hop"].value - 2.0).abs() < 1e-9);
        let throughput = known["pd_rps_per_cpu_vs_vllm_router_1kb"];
        assert!((throughput.value - 3.0).abs() < 1e-9 && throughput.passes());
        assert!(
            missing.contains(&"rss_idle_mib") && missing.contains(&"pd_p50_one_connection_vs_vllm_router")
        );
        assert_eq!(known.len() + missing.len(), GOALS.len());
    }

    #[test]
    fn a_difference_lost_in_noise_is_left_out_instead_of_passing() {
        let mut figures = measured();
        if let Some(added) = &mut figures[1].total_added {
            added.p50_us = -3.0;
        }
        let (known, missing) = ratios(Measured { figures: &figures, memory: &[] });
        assert!(!known.contains_key("pd_added_p50_vs_forwarder_hop"));
        assert!(missing.contains(&"pd_added_p50_vs_forwarder_hop"));
    }

    #[test]
    fn a_tail_of_too_few_requests_is_left_out() {
        let name = "pd_added_p99_2000_streams_vs_vllm_router";
        let samples = [
            sample(MANY_STREAMS, "direct-pd", 0, None, 10.0),
            sample(MANY_STREAMS, "sidecar-pd", 0, Some(0.1), 20.0),
            sample(MANY_STREAMS, "vllm-router", 0, Some(0.1), 50.0),
        ];
        let mut all: Vec<Figures> = ["sidecar-pd", "vllm-router"]
            .iter()
            .filter_map(|side| figures(&samples, MANY_STREAMS, side, "direct-pd"))
            .collect();
        let value =
            |all: &[Figures]| ratios(Measured { figures: all, memory: &[] }).0.get(name).map(|r| r.value);
        assert_eq!(value(&all), None);
        for figures in &mut all {
            figures.requests = TAIL_REQUESTS;
        }
        assert_eq!(value(&all), Some(0.25));
    }

    #[test]
    fn a_side_with_wrong_answers_has_no_ratio() {
        let mut figures = measured();
        figures[2].errors = 1;
        let (known, missing) = ratios(Measured { figures: &figures, memory: &[] });
        assert!(!known.contains_key("pd_rps_per_cpu_vs_vllm_router_1kb"));
        assert!(missing.contains(&"pd_rps_per_cpu_vs_vllm_router_1kb"));
    }

    #[test]
    fn memory_goals_come_from_the_sidecar() {
        let memory = [MemorySample {
            side: "sidecar-pd".to_owned(),
            idle_kib: 8192,
            streams_kib: 0,
            per_stream_kib: 12.5,
            after_kib: 0,
            peak_kib: 0,
        }];
        let (known, _) = ratios(Measured { figures: &[], memory: &memory });
        assert_eq!((known["rss_idle_mib"].value, known["rss_per_idle_stream_kib"].value), (8.0, 12.5));
    }
}
