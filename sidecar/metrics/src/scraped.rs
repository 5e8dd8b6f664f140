//! The part of an answer that exists only while it is written: what was read for this scrape.

use prometheus_client::encoding::{EncodeCounterValue, EncodeGaugeValue};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::by_label::ByLabel;
use crate::labels::Settled;
use crate::process::Process;
use crate::reading::Reading;

/// Registers what the sidecar's parts say of themselves; `registry` has the sidecar's prefix.
pub(crate) fn register_reading(registry: &mut Registry, reading: &Reading) {
    let kv = reading.kv;
    gauge(
        registry,
        "kv_outstanding",
        "KV handles handed out by prefill and neither read nor given back yet; 0 when idle",
        kv.outstanding(),
    );
    counter(registry, "kv_handed_out", "KV handles that prefill handed out", kv.handed_out);
    registry.register(
        "kv_settled",
        "KV handles whose account was closed: read by decode, given back, or left to the engine's lease",
        ByLabel::new(|how| {
            ConstCounter::new(match how {
                Settled::Consumed => kv.consumed,
                Settled::Released => kv.released,
                Settled::Expired => kv.expired,
            })
        }),
    );
    registry.register(
        "upstream_connections",
        "Open connections to engines",
        ByLabel::new(|labels| ConstGauge::new(reading.upstream_connections.get(labels))),
    );
    registry.register(
        "upstream_connections_opened",
        "Connections to engines that were opened",
        ByLabel::new(|leg| ConstCounter::new(reading.upstream_connections_opened.get(leg))),
    );
    gauge(registry, "client_connections", "Open connections of clients", reading.client_connections);
    registry.register(
        "peers",
        "Prefill engines by the state of their handshake with the decode engine",
        ByLabel::new(|state| ConstGauge::new(reading.peers.get(state))),
    );
    counter(
        registry,
        "log_lines_dropped",
        "Log lines lost because standard output was not read fast enough",
        reading.log_lines_dropped,
    );
    counter(
        registry,
        "trace_spans_dropped",
        "Spans lost because the trace collector did not take them fast enough",
        reading.spans_dropped,
    );
    if let Some(age) = reading.allowlist_age {
        let help = "Time since the allowlist last agreed with its origin, in seconds";
        registry.register_with_unit("allowlist_age", help, Unit::Seconds, ConstGauge::new(age.as_secs_f64()));
    }
}

/// Registers the process's own numbers; `registry` has no prefix.
pub(crate) fn register_process(registry: &mut Registry, process: Process) {
    if let Some(seconds) = process.cpu_seconds {
        let help = "User and system CPU time of the process, in seconds";
        registry.register_with_unit("process_cpu", help, Unit::Seconds, ConstCounter::new(seconds));
    }
    if let Some(seconds) = process.start_seconds {
        let help = "When the process started, in seconds since the epoch";
        registry.register_with_unit("process_start_time", help, Unit::Seconds, ConstGauge::new(seconds));
    }
    let bytes = [
        ("process_resident_memory", "Memory of the process in RAM, in bytes", process.resident_bytes),
        ("process_virtual_memory", "Address space of the process, in bytes", process.virtual_bytes),
    ];
    for (name, help, value) in bytes {
        if let Some(value) = value {
            registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(value));
        }
    }
    let counts = [
        ("process_open_fds", "Open file descriptors", process.open_fds),
        ("process_max_fds", "Most file descriptors that may be open", process.max_fds),
        ("process_threads", "Threads of the process", process.threads),
    ];
    for (name, help, value) in counts {
        if let Some(value) = value {
            gauge(registry, name, help, value);
        }
    }
}

fn gauge<N>(registry: &mut Registry, name: &str, help: &str, value: N)
where
    N: EncodeGaugeValue + std::fmt::Debug + Send + Sync + 'static,
{
    registry.register(name, help, ConstGauge::new(value));
}

fn counter<N>(registry: &mut Registry, name: &str, help: &str, value: N)
where
    N: EncodeCounterValue + std::fmt::Debug + Send + Sync + 'static,
{
    registry.register(name, help, ConstCounter::new(value));
}
