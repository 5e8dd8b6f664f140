//! Not a check but a measurement: `cargo test -p kvferry-traces --test cost -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use common::{Collector, PATIENCE, traces_to};
use http::{HeaderMap, Method};
use kvferry_traces::{RequestTrace, Traces, Work, attributes};

/// One disaggregated request, with the attributes that it will have.
fn serve(traces: &Traces, out: &mut HeaderMap) {
    let mut trace = traces.request(&HeaderMap::new(), &Method::POST, "/v1/chat/completions");
    trace.forward();
    trace.set(attributes::CONNECTOR, "nixlv2");
    trace.set(attributes::DISAGGREGATION_USED, true);
    trace.set_text(attributes::PREFILL_TARGET, "10.0.0.1:8000");
    trace.set_text(attributes::REQUEST_ID, "6f1c6c1e-57a5-4f5c-8f0a-0e6f3a0d9f11");
    trace.set(attributes::GEN_AI_OPERATION_NAME, "chat");
    trace.set(attributes::TOTAL_DURATION_MS, 12.5);
    for work in [Work::Prefill, Work::Decode] {
        let mut leg = trace.span(work);
        leg.set(attributes::DECODE_LEG_DURATION_MS, 12.5);
        let mut client = leg.client(&Method::POST, "10.0.0.1", 8000);
        client.inject(out);
        client.answered(200);
    }
    trace.answered(200);
}

/// CPU time of the exporting thread, in milliseconds, by the kernel's ticks of 10 ms.
fn exporting_ms() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let stat = tasks
        .filter_map(|task| fs::read_to_string(task.join("stat")).ok())
        .find(|stat| stat.contains("(traces)"))
        .unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum()
}

#[test]
#[ignore = "measures, asserts nothing about time"]
fn what_tracing_costs() {
    const ROUNDS: u32 = 100_000;
    let collector = Collector::start();
    for (what, ratio) in [("off", None), ("unsampled", Some("0")), ("one in ten", Some("0.1"))] {
        let traces = ratio.map_or_else(Traces::off, |ratio| {
            let variables = [
                ("OTEL_TRACES_SAMPLER_ARG", ratio),
                ("OTEL_BSP_MAX_QUEUE_SIZE", "65536"),
                ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ];
            traces_to(&collector.endpoint(), &variables)
        });
        let mut out = HeaderMap::new();
        let started = Instant::now();
        for _ in 0..ROUNDS {
            serve(&traces, &mut out);
        }
        let each = started.elapsed().as_nanos() / u128::from(ROUNDS);
        // The last batches are sent, before the thread and its account are gone.
        thread::sleep(Duration::from_secs(1));
        let exporting = exporting_ms() * 1_000_000 / u64::from(ROUNDS);
        traces.shutdown(PATIENCE).unwrap();
        let dropped = traces.spans_dropped();
        println!("{what}: {each} ns a request, and {exporting} ns of exporting; {dropped} spans dropped");
    }
    println!("kept for each stream: {} bytes", size_of::<RequestTrace>());
}
