//! Who is compared: each side is the sidecar with some flags, and what it has to cost at most beside `nixlv2` serial.
//!
//! A connector that is not here is not measured: a new one needs a line.

use crate::Result;

/// What a connector may cost, of `nixlv2` serial's CPU time for each request.
const CONNECTOR: f64 = 1.10;

/// What telemetry may cost, of the CPU time without it.
const TELEMETRY: f64 = 1.05;

/// Engines a side stands in front of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behind {
    /// The emulators.
    Emulators,
    /// The bench's own, that answer what emulators without think time do not: a prefill engine that pushes, and a decode
    /// engine that offers its KV for the next turn.
    Own,
}

/// Where traces go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traces {
    /// There are none.
    Off,
    /// A collector, by OTLP over gRPC.
    Otlp,
    /// Standard output, which is /dev/null.
    Console,
}

/// One side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    /// As in the JSON.
    pub(super) name: &'static str,
    /// What it is, for readers.
    pub(super) words: &'static str,
    /// Flags, besides ports.
    pub(super) flags: &'static [&'static str],
    pub(super) behind: Behind,
    /// Whether its metrics are scraped every second.
    pub(super) scraped: bool,
    pub(super) traces: Traces,
    /// The most that its CPU time for each request may be of the base's; `None`: it only tells how sure the others are.
    pub(super) goal: Option<f64>,
}

/// What the others are compared with.
pub(super) const BASE: Side = Side {
    name: "nixlv2",
    words: "nixlv2, serial",
    flags: &["--kv-connector=nixlv2"],
    behind: Behind::Emulators,
    scraped: false,
    traces: Traces::Off,
    goal: None,
};

const fn connector(name: &'static str, words: &'static str, flags: &'static [&'static str]) -> Side {
    Side { name, words, flags, goal: Some(CONNECTOR), ..BASE }
}

const fn telemetry(name: &'static str, words: &'static str, scraped: bool, traces: Traces) -> Side {
    Side { name, words, scraped, traces, goal: Some(TELEMETRY), ..BASE }
}

/// Another process with the same flags as the base: what it differs by is what two runs of the same program differ by.
pub(super) const TWIN: &str = "nixlv2_twin";

/// Its requests find the bootstrap server asked.
pub(super) const MOONCAKE: &str = "mooncake";

/// Its decode legs start beside prefill.
pub(super) const PUSH: &str = "nixlv2_push";

/// Its prefill legs carry what decode offered.
pub(super) const BIDIRECTIONAL: &str = "nixlv2_bidirectional";

/// Every side, in the order in which a round takes them.
pub(super) const SIDES: [Side; 15] = [
    Side { name: TWIN, words: "nixlv2 serial itself, a second process", ..BASE },
    connector("pair_warm_up", "nixlv2, pair warm-up on", &["--kv-connector=nixlv2", "--pair-warm-up"]),
    connector("atom", "atom", &["--kv-connector=atom"]),
    connector("offloading", "offloading", &["--kv-connector=offloading"]),
    connector("shared_storage", "shared-storage", &["--kv-connector=shared-storage"]),
    connector("sglang", "sglang", &["--kv-connector=sglang"]),
    connector(MOONCAKE, "mooncake", &["--kv-connector=mooncake"]),
    connector(
        "moriio_serial",
        "nixlv2, MoRI-IO write mode",
        &["--kv-connector=nixlv2", "--moriio-write-mode", "--moriio-local-pod-ip=127.0.0.1"],
    ),
    connector(
        "moriio_parallel",
        "nixlv2, MoRI-IO parallel",
        &[
            "--kv-connector=nixlv2",
            "--moriio-write-mode",
            "--moriio-parallel-dispatch",
            "--moriio-local-pod-ip=127.0.0.1",
        ],
    ),
    Side {
        behind: Behind::Own,
        ..connector(PUSH, "nixlv2, push mode", &["--kv-connector=nixlv2", "--nixl-push-mode"])
    },
    Side {
        behind: Behind::Own,
        ..connector(
            BIDIRECTIONAL,
            "nixlv2, bidirectional KV",
            &["--kv-connector=nixlv2", "--bidirectional-kv", "--pod-namespace=llm", "--pod-name=decode-0"],
        )
    },
    telemetry("metrics", "metrics, scraped every second", true, Traces::Off),
    telemetry("traces_otlp", "10% of traces, by OTLP", false, Traces::Otlp),
    telemetry("metrics_and_traces", "metrics and these traces", true, Traces::Otlp),
    telemetry("traces_console", "10% of traces, to the log", false, Traces::Console),
];

/// The sides whose name contains what is asked for.
///
/// # Errors
/// There is none.
pub(super) fn wanted(only: Option<&str>) -> Result<Vec<Side>> {
    let wanted: Vec<Side> =
        SIDES.into_iter().filter(|side| only.is_none_or(|text| side.name.contains(text))).collect();
    if wanted.is_empty() {
        let names: Vec<&str> = SIDES.iter().map(|side| side.name).collect();
        return Err(
            format!("no side's name contains what --only asks for; there are {}", names.join(", ")).into()
        );
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn only_selects_by_part_of_the_name_and_an_empty_selection_is_an_error() {
        assert_eq!(wanted(None).unwrap().len(), SIDES.len());
        assert_eq!(wanted(Some("moriio")).unwrap().len(), 2);
        assert!(wanted(Some("nothing")).unwrap_err().to_string().contains("atom"));
    }

    #[test]
    fn names_are_unique_and_all_but_the_twin_have_a_goal() {
        assert_eq!(SIDES.iter().map(|side| side.name).collect::<HashSet<_>>().len(), SIDES.len());
        let without: Vec<_> = SIDES.iter().filter(|side| side.goal.is_none()).collect();
        assert_eq!(without.len(), 1);
        assert_eq!((without[0].name, without[0].flags), (TWIN, BASE.flags));
    }
}
