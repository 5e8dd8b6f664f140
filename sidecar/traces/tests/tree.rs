//! What a collector sees of a request: one tree of spans for both legs, with its attributes and errors.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]

mod common;

use common::{Collector, attributes, headers, hex};
use http::{HeaderMap, Method};
use kvferry_traces::attributes as names;
use kvferry_traces::{RequestTrace, Traces, Work};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

const PATH: &str = "/v1/chat/completions";

fn request(traces: &Traces, from: &HeaderMap) -> RequestTrace {
    let mut trace = traces.request(from, &Method::POST, PATH);
    trace.forward();
    trace
}

#[test]
fn both_legs_are_siblings_in_the_clients_trace_each_with_its_client_span() {
    let collector = Collector::start();
    let traces = collector.traces("0");
    let from = headers(&[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]);
    let trace = request(&traces, &from);
    for (work, port) in [(Work::Encode, 1), (Work::Prefill, 2), (Work::Decode, 3), (Work::ChunkedDecode, 4)] {
        let leg = trace.span(work);
        let client = leg.client(&Method::POST, "10.0.0.1", port);
        client.end();
        leg.end();
    }
    drop(trace);

    let spans = collector.all_spans(&traces);
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let server = find("POST /v1/chat/completions");
    let forward = find("forward_request");
    assert!(spans.iter().all(|span| hex(&span.trace_id) == "0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(hex(&server.parent_span_id), "b7ad6b7169203331");
    assert_eq!(forward.parent_span_id, server.span_id);
    for (name, port) in [("encode", "1"), ("prefill", "2"), ("decode", "3"), ("chunked_decode", "4")] {
        let leg = find(name);
        assert_eq!(leg.parent_span_id, forward.span_id, "{name}");
        assert_eq!(leg.kind(), SpanKind::Internal);
        let client = spans
            .iter()
            .find(|span| span.name == "HTTP POST" && span.parent_span_id == leg.span_id)
            .unwrap_or_else(|| panic!("no client span below {name}"));
        assert_eq!(client.kind(), SpanKind::Client);
        assert_eq!(attributes(&client.attributes)["server.port"], port);
    }
    assert_eq!(spans.len(), 10);
    assert_eq!([server.kind(), forward.kind()], [SpanKind::Server; 2]);
}

#[test]
fn a_span_lies_within_its_parent() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let trace = request(&traces, &HeaderMap::new());
    let leg = trace.span(Work::Decode);
    leg.client(&Method::POST, "10.0.0.1", 1).end();
    leg.end();
    drop(trace);
    let spans = collector.spans(&traces);
    let order =
        ["POST /v1/chat/completions", "forward_request", "decode", "HTTP POST"].map(|name| &spans[name]);
    for pair in order.windows(2) {
        let (outer, inner) = (pair[0], pair[1]);
        assert!(outer.start_time_unix_nano <= inner.start_time_unix_nano, "{}", inner.name);
        assert!(inner.end_time_unix_nano <= outer.end_time_unix_nano, "{}", inner.name);
    }
    assert_eq!(order[0].parent_span_id, b"", "without a client's context it is the root");
}

#[test]
fn attributes_stand_on_the_span_they_were_set_on() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let mut trace = request(&traces, &HeaderMap::new());
    trace.set(names::CONNECTOR, "nixlv2");
    trace.set(names::DISAGGREGATION_USED, true);
    trace.set(names::TRUE_TTFT_MS, 1.5);
    trace.set_text(names::GEN_AI_REQUEST_MODEL, "some/model");
    trace.set(names::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, 17);
    let mut prefill = trace.span(Work::Prefill);
    prefill.set_text(names::PREFILL_TARGET, "10.0.0.1:8000");
    let mut client = prefill.client(&Method::POST, "10.0.0.1", 8000);
    client.answered(200);
    trace.answered(200);
    drop((client, prefill, trace));

    let spans = collector.spans(&traces);
    let of = |name: &str| attributes(&spans[name].attributes);
    let expected = [
        ("llm_d.pd_proxy.connector", "nixlv2"),
        ("llm_d.pd_proxy.disaggregation_used", "true"),
        ("llm_d.pd_proxy.true_ttft_ms", "1.5"),
        ("gen_ai.request.model", "some/model"),
        ("gen_ai.usage.cache_read.input_tokens", "17"),
    ];
    assert_eq!(of("forward_request"), expected.map(|(name, value)| (name, value.to_owned())).into());
    let expected = [
        ("http.request.method", "POST"),
        ("url.path", "/v1/chat/completions"),
        ("http.response.status_code", "200"),
    ];
    assert_eq!(
        of("POST /v1/chat/completions"),
        expected.map(|(name, value)| (name, value.to_owned())).into()
    );
    let expected = [
        ("http.request.method", "POST"),
        ("server.address", "10.0.0.1"),
        ("server.port", "8000"),
        ("http.response.status_code", "200"),
    ];
    assert_eq!(of("HTTP POST"), expected.map(|(name, value)| (name, value.to_owned())).into());
    assert_eq!(of("prefill"), [("llm_d.pd_proxy.prefill_target", "10.0.0.1:8000".to_owned())].into());
    assert!(
        spans
            .values()
            .all(|span| span.status.as_ref().is_none_or(|status| status.code() == StatusCode::Unset))
    );
}

#[test]
fn the_service_says_who_it_is() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    drop(request(&traces, &HeaderMap::new()));
    let requests = collector.requests(&traces);
    let resource = &requests[0].resource_spans[0];
    let said = attributes(&resource.resource.as_ref().unwrap().attributes);
    assert_eq!(said["service.name"], "llm-d-disagg-sidecar");
    assert_eq!(said["service.version"], "1.2.3");
    let scope = resource.scope_spans[0].scope.as_ref().unwrap();
    assert_eq!((scope.name.as_str(), scope.version.as_str()), ("llm-d-router/pkg/sidecar/proxy", "1.2.3"));
}

#[test]
fn a_failure_has_a_status_and_a_type_and_the_first_stays() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let mut trace = request(&traces, &HeaderMap::new());
    let mut decode = trace.span(Work::Decode);
    let mut client = decode.client(&Method::POST, "localhost", 8200);
    client.answered(404);
    decode.failed("decode_broke");
    trace.failed("decode_broke");
    trace.answered(502);
    drop((client, decode, trace));

    let spans = collector.spans(&traces);
    for (name, error) in [
        ("HTTP POST", "404"),
        ("decode", "decode_broke"),
        ("forward_request", "decode_broke"),
        ("POST /v1/chat/completions", "decode_broke"),
    ] {
        let status = spans[name].status.as_ref().unwrap();
        assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, error), "{name}");
        let said = &spans[name].attributes;
        assert_eq!(attributes(said)["error.type"], error, "{name}");
        assert_eq!(said.iter().filter(|attribute| attribute.key == "error.type").count(), 1, "{name}");
    }
    assert_eq!(
        attributes(&spans["POST /v1/chat/completions"].attributes)["http.response.status_code"],
        "502"
    );
}

#[test]
fn the_clients_own_error_is_none_of_ours() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let mut trace = traces.request(&HeaderMap::new(), &Method::GET, "/v1/models");
    trace.answered(404);
    drop(trace);
    let spans = collector.spans(&traces);
    assert_eq!(
        spans.keys().collect::<Vec<_>>(),
        ["GET /v1/models"],
        "a request that only passes is one span"
    );
    assert!(spans["GET /v1/models"].status.as_ref().is_none_or(|status| status.code() == StatusCode::Unset));
}

#[test]
fn spans_of_background_work_may_end_after_the_request_and_on_another_thread() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let trace = request(&traces, &HeaderMap::new());
    let leg = trace.span(Work::Prefill);
    drop(trace);
    std::thread::spawn(move || drop(leg)).join().unwrap();
    let spans = collector.spans(&traces);
    assert_eq!(spans["prefill"].parent_span_id, spans["forward_request"].span_id);
}

#[test]
fn an_attribute_that_is_set_again_stands_once_with_its_last_value() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let mut trace = request(&traces, &HeaderMap::new());
    trace.set_text(names::PREFILL_TARGET, "10.0.0.1:8000");
    trace.set_text(names::PREFILL_TARGET, "10.0.0.2:8000");
    drop(trace);
    let spans = collector.spans(&traces);
    let said = &spans["forward_request"].attributes;
    assert_eq!(said.len(), 1);
    assert_eq!(attributes(said)["llm_d.pd_proxy.prefill_target"], "10.0.0.2:8000");
}

#[test]
fn a_client_span_is_named_by_its_method_and_a_made_up_method_names_nothing() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let made_up = Method::from_bytes(b"LOOK-AT-ME").unwrap();
    for method in [Method::GET, made_up] {
        let trace = traces.request(&HeaderMap::new(), &method, "/v1/models");
        trace.client(&method, "localhost", 8200).end();
    }
    let spans = collector.spans(&traces);
    for (server, client, method) in
        [("GET /v1/models", "HTTP GET", "GET"), ("_OTHER /v1/models", "HTTP", "_OTHER")]
    {
        assert_eq!(spans[client].parent_span_id, spans[server].span_id);
        for name in [server, client] {
            assert_eq!(attributes(&spans[name].attributes)["http.request.method"], method, "{name}");
        }
    }
}

#[test]
fn work_that_turns_out_to_be_another_goes_by_that_name() {
    let collector = Collector::start();
    let traces = collector.traces("1");
    let trace = request(&traces, &HeaderMap::new());
    trace.span(Work::Decode).becomes(Work::ChunkedDecode);
    drop(trace);
    let spans = collector.spans(&traces);
    assert!(spans.contains_key("chunked_decode") && !spans.contains_key("decode"), "{:?}", spans.keys());
}
