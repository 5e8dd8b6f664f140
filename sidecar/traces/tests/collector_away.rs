//! A collector that is away, or takes nothing, costs spans and never requests.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use common::{Collector, PATIENCE, traces_to};
use http::{HeaderMap, Method};
use kvferry_traces::{TraceError, Traces, Work, attributes};

const QUEUE: u64 = 100;

/// A request with five spans.
fn serve(traces: &Traces) {
    let mut trace = traces.request(&HeaderMap::new(), &Method::POST, "/v1/completions");
    trace.forward();
    trace.set(attributes::DISAGGREGATION_USED, true);
    for work in [Work::Prefill, Work::Decode] {
        trace.span(work).set(attributes::DECODE_STREAMING, true);
    }
    let mut out = HeaderMap::new();
    trace.client(&Method::POST, "localhost", 8200).inject(&mut out);
}

fn traces(port: u16) -> Traces {
    let queue = QUEUE.to_string();
    traces_to(
        &format!("http://127.0.0.1:{port}"),
        &[
            ("OTEL_TRACES_SAMPLER_ARG", "1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", &queue),
            ("OTEL_BSP_EXPORT_TIMEOUT", "600000"),
        ],
    )
}

#[test]
fn a_collector_that_never_answers_fills_the_queue_and_nothing_else() {
    // Connections are taken by the kernel, and nobody ever speaks.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let traces = traces(silent.local_addr().unwrap().port());
    for _ in 0..2_000 {
        serve(&traces);
    }
    // As many as wait, and as many as the one export holds that is under way.
    assert!(traces.spans_dropped() >= 10_000 - 2 * QUEUE, "{}", traces.spans_dropped());
    let error = traces.shutdown(Duration::from_millis(1)).unwrap_err();
    assert!(matches!(error, TraceError::NotFlushed { .. }), "{error}");
}

#[test]
fn a_collector_that_is_not_there_costs_the_spans_and_shutdown_ends() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let traces = traces(port);
    serve(&traces);
    traces.shutdown(PATIENCE).unwrap();
    assert_eq!(traces.spans_dropped(), 5, "each of them is accounted for");
}

#[test]
fn after_shutdown_requests_are_served_without_spans() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    serve(&traces);
    assert_eq!(collector.all_spans(&traces).len(), 5);
    let during = traces.clone();
    serve(&during);
    traces.shutdown(PATIENCE).unwrap();
    assert_eq!(collector.all_spans(&traces).len(), 5);
}

#[test]
fn more_spans_than_one_export_holds_all_arrive() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    for _ in 0..300 {
        serve(&traces);
    }
    assert_eq!(collector.all_spans(&traces).len() as u64 + traces.spans_dropped(), 1_500);
    assert_eq!(traces.spans_dropped(), 0);
}
