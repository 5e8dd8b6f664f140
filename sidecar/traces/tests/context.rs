//! Whose trace a request belongs to, whether it is sampled, and what the engines are told.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use common::{Collector, headers, hex, only};
use http::{HeaderMap, Method};
use kvferry_traces::{Traces, Work};

const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What a leg of a request with these headers is told.
fn told(traces: &Traces, from: &HeaderMap) -> HeaderMap {
    let mut trace = traces.request(from, &Method::POST, "/v1/completions");
    trace.forward();
    let leg = trace.span(Work::Prefill);
    let mut out = from.clone();
    leg.client(&Method::POST, "10.0.0.1", 8000).inject(&mut out);
    out
}

#[test]
fn an_engine_learns_the_span_that_asks_it() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let from = headers(&[
        ("traceparent", SAMPLED),
        ("tracestate", "vendor=1,other=2"),
        ("baggage", "user=a%20b;p=1"),
    ]);
    let out = told(&traces, &from);
    let spans = collector.spans(&traces);
    let client = &spans["HTTP POST"];
    assert_eq!(only(&out, "traceparent"), format!("00-{TRACE}-{}-01", hex(&client.span_id)));
    assert_eq!(only(&out, "tracestate"), "vendor=1,other=2");
    assert_eq!(only(&out, "baggage"), "user=a%20b;p=1");
}

#[test]
fn legs_with_headers_of_their_own_get_the_context_too() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    for parent in [SAMPLED, UNSAMPLED] {
        let from = headers(&[("traceparent", parent), ("tracestate", "vendor=1"), ("baggage", "user=a")]);
        let mut out = HeaderMap::new();
        traces.request(&from, &Method::POST, "/").span(Work::Encode).inject(&mut out);
        assert!(only(&out, "traceparent").contains(TRACE));
        assert_eq!([only(&out, "tracestate"), only(&out, "baggage")], ["vendor=1", "user=a"]);
    }
}

#[test]
fn an_unsampled_request_keeps_its_trace_and_says_that_it_is_not_sampled() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let from = headers(&[("traceparent", UNSAMPLED), ("tracestate", "vendor=1")]);
    let out = told(&traces, &from);
    let parent = only(&out, "traceparent");
    assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"), "{parent}");
    assert_ne!(parent, UNSAMPLED, "the parent is a span of ours");
    assert_eq!(only(&out, "tracestate"), "vendor=1");
    assert!(collector.all_spans(&traces).is_empty());
}

#[test]
fn a_context_that_is_not_valid_is_replaced_with_its_state() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    for parent in [
        "",
        "nonsense",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ] {
        let out = told(&traces, &headers(&[("traceparent", parent), ("tracestate", "vendor=1")]));
        assert!(!only(&out, "traceparent").contains(TRACE), "{parent}");
        assert!(!out.contains_key("tracestate"), "{parent}");
    }
    let twice = headers(&[("traceparent", SAMPLED), ("traceparent", SAMPLED)]);
    assert!(!only(&told(&traces, &twice), "traceparent").contains(TRACE), "two parents are none");
}

#[test]
fn a_state_that_is_not_valid_is_dropped_and_the_parent_stays() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let out = told(&traces, &headers(&[("traceparent", SAMPLED), ("tracestate", "not a state")]));
    assert!(only(&out, "traceparent").contains(TRACE));
    assert!(!out.contains_key("tracestate"));
}

#[test]
fn lists_in_several_lines_become_one() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let from = headers(&[
        ("traceparent", SAMPLED),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("baggage", "x=1"),
        ("baggage", "y=2"),
    ]);
    let out = told(&traces, &from);
    assert_eq!([only(&out, "tracestate"), only(&out, "baggage")], ["a=1,b=2", "x=1,y=2"]);
}

#[test]
fn without_tracing_everything_stays_as_it_came() {
    let traces = Traces::off();
    let from = headers(&[("traceparent", SAMPLED), ("tracestate", "not a state"), ("baggage", "x=1")]);
    assert_eq!(told(&traces, &from), from);
    let trace = traces.request(&from, &Method::POST, "/");
    assert_eq!((trace.trace_id(), trace.is_recorded()), (None, false));
    let none = Traces::from_env("1.2.3", |name| (name == "OTEL_TRACES_EXPORTER").then(|| "none".to_owned()));
    assert_eq!(told(&none.unwrap(), &from), from);
}

#[test]
fn without_a_parent_the_trace_id_decides_and_every_instance_decides_alike() {
    const ROOTS: u32 = 2_000;
    let collector = Collector::start();
    let traces = collector.traces("0.25");
    let mut sampled = 0;
    for _ in 0..ROOTS {
        let trace = traces.request(&HeaderMap::new(), &Method::POST, "/");
        // As the standard's sampler decides: the id's lower half lies in the first quarter of all there are.
        let low = u64::from_str_radix(&trace.trace_id().unwrap().as_str()[16..], 16).unwrap();
        assert_eq!(trace.is_recorded(), low < 1 << 62, "{:?}", trace.trace_id());
        sampled += u32::from(trace.is_recorded());
    }
    // Ids are random: a share that is far off would be a sign that they are not.
    assert!((ROOTS / 8..ROOTS / 2).contains(&sampled), "{sampled} of {ROOTS}");
    assert_eq!(collector.all_spans(&traces).len(), sampled as usize);
}

#[test]
fn requests_without_a_context_are_traces_of_their_own() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let id = || traces.request(&HeaderMap::new(), &Method::POST, "/").trace_id().unwrap();
    assert_ne!(id(), id());
}

#[test]
fn both_legs_of_a_request_that_is_not_sampled_have_the_same_parent() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let mut trace = traces.request(&HeaderMap::new(), &Method::POST, "/v1/completions");
    trace.forward();
    let parents = [Work::Prefill, Work::Decode].map(|work| {
        let mut out = HeaderMap::new();
        trace.span(work).client(&Method::POST, "10.0.0.1", 8000).inject(&mut out);
        only(&out, "traceparent").to_owned()
    });
    assert_eq!(parents[0], parents[1]);
    let id = trace.trace_id().unwrap();
    assert_eq!(parents[0][3..35], *id.as_str(), "the log names the trace that engines are told of");
    assert!(parents[0].ends_with("-00"));
}

#[test]
fn what_is_the_same_for_all_engines_is_said_once_in_the_headers_that_all_of_them_get() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let from = headers(&[("traceparent", UNSAMPLED), ("tracestate", "vendor=1"), ("baggage", "user=a")]);
    let told_each = told(&traces, &from);
    let mut all = from.clone();
    let mut trace = traces.request(&from, &Method::POST, "/v1/completions");
    let id = trace.trace_id();
    trace.announce(&mut all);
    assert!(only(&all, "traceparent").starts_with(&format!("00-{TRACE}-")));
    assert_ne!(only(&all, "traceparent"), UNSAMPLED, "the parent is a span of ours");
    for name in ["tracestate", "baggage"] {
        assert_eq!(only(&all, name), only(&told_each, name));
    }
    assert_eq!(trace.trace_id(), id, "the log still names the trace");
    let mut leg = all.clone();
    trace.span(Work::Prefill).client(&Method::POST, "10.0.0.1", 8000).inject(&mut leg);
    assert_eq!(leg, all);
}

#[test]
fn what_differs_between_engines_is_not_announced() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let from = headers(&[("traceparent", SAMPLED)]);
    let (mut all, mut leg) = (from.clone(), from.clone());
    let mut trace = traces.request(&from, &Method::POST, "/v1/completions");
    trace.announce(&mut all);
    assert_eq!(all, from);
    trace.span(Work::Prefill).client(&Method::POST, "10.0.0.1", 8000).inject(&mut leg);
    assert_ne!(leg, all);
    let mut off = from.clone();
    Traces::off().request(&from, &Method::POST, "/").announce(&mut off);
    assert_eq!(off, from, "without tracing everything stays as it came");
}
