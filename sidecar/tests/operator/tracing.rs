//! `--tracing`: one trace joins both legs, and engines take it on.

use crate::common::{APIS, Ask, eventually};
use crate::pod::Pod;
use crate::spans::{ALL, Span, only, spans, until};
use kvferry_emulator::{Config, Emulator, Faults, Role, Speeds};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const ENCODERS: &str = "x-encoder-hosts-ports";

/// What a client sends that traces, with its decision.
fn context(sampled: bool) -> String {
    format!("00-{TRACE}-{PARENT}-{:02x}", u8::from(sampled))
}

/// Trace, parent and flags of the last request that an engine saw. It sees one context.
fn seen(engine: &Emulator) -> (String, String, String) {
    let request = engine.requests().pop().unwrap();
    let values = request.header_values("traceparent");
    assert_eq!(values.len(), 1, "{values:?}");
    let parts: Vec<&str> = values[0].split('-').collect();
    assert_eq!((parts.len(), parts[0]), (4, "00"), "{values:?}");
    (parts[1].to_owned(), parts[2].to_owned(), parts[3].to_owned())
}

/// The client span below a leg's span.
fn client_of<'a>(spans: &'a [Span], leg: &Span) -> &'a Span {
    spans.iter().find(|span| span.text("kind") == "client" && span.is_below(leg)).unwrap()
}

#[tokio::test]
async fn a_handoff_is_one_trace_from_the_client_to_both_engines() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    for (number, stream) in [false, true].into_iter().enumerate() {
        let ask = pod.ask(APIS[0].path, APIS[0].body(stream)).header("traceparent", &context(true));
        ask.send(pod.address()).await.ok();
        let all = until(&pod, 6 * (number + 1)).await;
        let spans = &all[6 * number..];
        assert!(spans.iter().all(|span| span.text("trace_id") == TRACE), "{spans:?}");
        assert!(spans.iter().all(|span| span.text("service") == "llm-d-disagg-sidecar"));
        let server = only(spans, "POST /v1/chat/completions");
        let forward = only(spans, "forward_request");
        let (prefill, decode) = (only(spans, "prefill"), only(spans, "decode"));
        assert_eq!(server.text("parent_span_id"), PARENT);
        assert_eq!(
            [server, forward, prefill, decode].map(|span| span.text("kind")),
            ["server", "server", "internal", "internal"]
        );
        assert!(forward.is_below(server) && prefill.is_below(forward) && decode.is_below(forward));
        for (leg, engine) in [(prefill, &pod.prefill), (decode, &pod.decode)] {
            let client = client_of(spans, leg);
            assert_eq!(client.text("span"), "HTTP POST");
            assert_eq!(client.attribute("server.port"), engine.addr().port());
            assert_eq!(client.attribute("http.response.status_code"), 200);
            // Its own span is what the engine's spans hang below.
            assert_eq!(seen(engine), (TRACE.to_owned(), client.id().to_owned(), "01".to_owned()));
        }
        assert!(spans.iter().all(|span| span.0["error"].is_null()));
    }
    pod.end().await;
}

#[tokio::test]
async fn every_api_has_its_own_server_span() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    for (number, route) in APIS.into_iter().enumerate() {
        pod.ask(route.path, route.body(true)).send(pod.address()).await.ok();
        let all = until(&pod, 6 * (number + 1)).await;
        only(&all[6 * number..], &format!("POST {}", route.path));
    }
    pod.end().await;
}

#[tokio::test]
async fn attributes_keep_the_names_that_queries_know() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    let ask = pod.ask(APIS[0].path, APIS[0].body(true)).header("x-request-id", "mine");
    ask.send(pod.address()).await.ok();
    let spans = until(&pod, 6).await;
    let forward = only(&spans, "forward_request");
    for (name, value) in [
        ("connector", "nixlv2".into()),
        ("kv_connector", "nixlv2".into()),
        ("request_path", APIS[0].path.into()),
        ("disaggregation_used", serde_json::Value::from(true)),
        ("prefill_target", pod.prefill.host_port().into()),
        ("prefill_candidates", 1.into()),
        ("request_id", "mine".into()),
        ("llm_d.openai.api", APIS[0].label.into()),
        ("gen_ai.operation.name", "chat".into()),
        ("gen_ai.request.model", "tiny".into()),
    ] {
        assert_eq!(forward.attribute(name), &value, "{name}: {forward:?}");
    }
    for name in [
        "total_duration_ms",
        "prefill_duration_ms",
        "decode_duration_ms",
        "true_ttft_ms",
        "coordinator_overhead_ms",
    ] {
        assert!(forward.attribute(name).is_f64(), "{name}: {forward:?}");
    }
    let ms = |name: &str| forward.attribute(name).as_f64().unwrap();
    assert!(ms("prefill_duration_ms") + ms("decode_duration_ms") <= ms("total_duration_ms"));
    let (prefill, decode) = (only(&spans, "prefill"), only(&spans, "decode"));
    assert_eq!(prefill.attribute("prefill.status_code"), 200);
    assert_eq!(prefill.attribute("prefill.async"), &serde_json::Value::Null, "decode waits for it");
    assert_eq!(decode.attribute("decode.streaming"), true);
    for name in ["decode.data_parallel", "decode.concurrent_with_prefill"] {
        assert_eq!(decode.attribute(name), &serde_json::Value::Null, "{name} is said where it is true");
    }
    let target = decode.attribute("decode.target").as_str().unwrap();
    assert_eq!(target, format!("localhost:{}", pod.decode.addr().port()));
    for (leg, name) in [(prefill, "prefill.duration_ms"), (decode, "decode.duration_ms")] {
        assert!(leg.attribute(name).is_f64(), "{name}: {leg:?}");
    }
    pod.end().await;
}

#[tokio::test]
async fn legs_that_run_at_once_say_so() {
    let engine = |role| Emulator::start(Config { role, ..Config::default() });
    let engines = [engine(Role::Prefill).await.unwrap(), engine(Role::Decode).await.unwrap()];
    let bootstrap = format!("--mooncake-bootstrap-port={}", engines[0].bootstrap_port());
    let pod = Pod::between(engines, &ALL, &["--tracing", "--kv-connector=mooncake", &bootstrap]).await;
    pod.ask(APIS[0].path, APIS[0].body(true)).send(pod.address()).await.ok();
    let spans = until(&pod, 6).await;
    let forward = only(&spans, "forward_request");
    assert_eq!(forward.attribute("concurrent_pd"), true);
    assert_eq!(forward.attribute("parallel_dispatch"), true);
    assert!(forward.attribute("parallel_window_ms").is_f64(), "{forward:?}");
    assert_eq!(only(&spans, "prefill").attribute("prefill.async"), true);
    assert_eq!(only(&spans, "decode").attribute("decode.concurrent_with_prefill"), true);
    pod.end().await;
}

#[tokio::test]
async fn a_decode_leg_in_chunks_has_its_own_name_and_counts_them() {
    let pod = Pod::start_with(&ALL, &["--tracing", "--decode-chunk-size=4"]).await;
    for (number, stream) in [false, true].into_iter().enumerate() {
        let body = APIS[0].value("go on", 10, stream).to_string();
        pod.ask(APIS[0].path, body).send(pod.address()).await.ok();
        let all = until(&pod, 6 * (number + 1)).await;
        let spans = &all[6 * number..];
        let chunked = only(spans, "chunked_decode");
        assert!(chunked.is_below(only(spans, "forward_request")));
        assert!(spans.iter().all(|span| span.text("span") != "decode"));
        assert_eq!(chunked.attribute("chunked_decode.chunk_size"), 4);
        assert_eq!(chunked.attribute("chunked_decode.streaming"), stream);
        assert_eq!(chunked.attribute("chunked_decode.chunks"), 3);
        assert_eq!(chunked.attribute("chunked_decode.total_tokens"), 10);
        assert!(chunked.attribute("chunked_decode.duration_ms").is_f64());
    }
    pod.end().await;
}

#[tokio::test]
async fn encoders_that_are_named_and_those_that_may_be_used_are_told_apart() {
    let pod =
        Pod::start_with(&ALL, &["--tracing", "--ec-connector=ec-example", "--allow-target=127.0.0.1/32"])
            .await;
    let part = r#"{"type":"image_url","image_url":{"url":"http://a/i.png"}}"#;
    let with_part = format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}],"max_tokens":3}}"#);
    let ours = pod.prefill.host_port();
    let ask = |encoders: &str| Ask::post(APIS[0].path, with_part.as_str()).header(ENCODERS, encoders);

    ask(&format!("{ours},10.0.0.1:80")).send(pod.address()).await.ok();
    let first = until(&pod, 5).await;
    let forward = only(&first, "forward_request");
    assert_eq!(forward.attribute("ec_connector"), "ec-example");
    assert_eq!(forward.attribute("llm_d.ec_proxy.encode_disaggregation_used"), true);
    assert_eq!(forward.attribute("llm_d.ec_proxy.encoder_candidates"), 2);
    assert_eq!(forward.attribute("llm_d.ec_proxy.encoder_allowed"), 1);
    assert_eq!(forward.attribute("llm_d.ec_proxy.encoder_count"), 1);
    let encode = only(&first, "encode");
    assert_eq!(client_of(&first, encode).text("span"), "HTTP POST");

    ask("10.0.0.1:80").send(pod.address()).await.ok();
    let second = until(&pod, 8).await.split_off(5);
    let forward = only(&second, "forward_request");
    assert_eq!(forward.attribute("llm_d.ec_proxy.encode_disaggregation_used"), false);
    assert_eq!(forward.attribute("llm_d.ec_proxy.encoder_candidates"), 1);
    assert_eq!(forward.attribute("llm_d.ec_proxy.encoder_allowed"), 0);
    pod.end().await;
}

#[tokio::test]
async fn whatever_passes_is_a_server_span_and_a_client_span() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    let mut count = 0;
    for (method, path, body, status) in
        [("GET", "/v1/models", "", 200), ("HEAD", "/v1/models", "", 200), ("POST", "/v1/nowhere", "{}", 404)]
    {
        let ask = Ask::new(method, path, body).header("traceparent", &context(true));
        assert_eq!(ask.send(pod.address()).await.status, status, "{method} {path}");
        let spans = until(&pod, count + 2).await.split_off(count);
        count += 2;
        let server = only(&spans, &format!("{method} {path}"));
        let client = only(&spans, &format!("HTTP {method}"));
        assert_eq!([server, client].map(|span| span.text("kind")), ["server", "client"]);
        assert_eq!(server.text("parent_span_id"), PARENT);
        assert!(client.is_below(server));
        assert_eq!(seen(&pod.decode), (TRACE.to_owned(), client.id().to_owned(), "01".to_owned()));
        assert_eq!(client.attribute("http.request.method"), method);
        assert_eq!(client.attribute("server.port"), pod.decode.addr().port());
        for span in [server, client] {
            assert_eq!(span.attribute("http.response.status_code"), status);
        }
        assert!(server.0["error"].is_null(), "it ended well: {server:?}");
        assert_eq!(client.0["error"].is_null(), status < 400, "{client:?}");
        assert_eq!(server.attribute("total_duration_ms"), &serde_json::Value::Null);
    }
    assert!(pod.end().await.iter().all(|line| line["fields"]["message"] != "request"), "nor is it logged");
}

#[tokio::test]
async fn a_request_that_passes_and_is_not_sampled_is_followed_all_the_same() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    Ask::get("/v1/models").header("traceparent", &context(false)).send(pod.address()).await.ok();
    let (trace, parent, flags) = seen(&pod.decode);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "00"));
    assert_ne!(parent, PARENT, "its parent is ours");
    assert!(spans(&pod.end().await).is_empty());
}

#[tokio::test]
async fn a_decode_engine_that_breaks_is_marked_in_what_passes() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    pod.decode.set_faults(Faults { reset_before: true, times: Some(1), ..Faults::default() });
    let answer = Ask::post("/v1/embeddings", "{}").send(pod.address()).await;
    assert_eq!(answer.status, 502);
    let spans = until(&pod, 2).await;
    for name in ["POST /v1/embeddings", "HTTP POST"] {
        assert_eq!(only(&spans, name).text("error"), "decode_broke", "{spans:?}");
    }
    pod.end().await;
}

#[tokio::test]
async fn a_request_without_a_handoff_is_traced_to_its_engine() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    let ask = Ask::post(APIS[0].path, APIS[0].body(true)).header("traceparent", &context(true));
    ask.send(pod.address()).await.ok();
    let (trace, parent, flags) = seen(&pod.decode);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
    pod.idle().await;
    eventually("its spans are written", || {
        spans(&pod.process.log()).iter().any(|span| span.text("span") == "POST /v1/chat/completions")
    })
    .await;
    let spans = spans(&pod.process.log());
    assert!(only(&spans, "HTTP POST").is_below(only(&spans, "forward_request")));
    assert_eq!(only(&spans, "forward_request").attribute("disaggregation_used"), false);
    assert_eq!(only(&spans, "forward_request").attribute("reason"), "no_prefill_header");
    assert!(spans.iter().any(|span| span.id() == parent), "the engine's parent is one of ours: {spans:?}");
    assert!(spans.iter().all(|span| span.text("span") != "prefill"));
    pod.end().await;
}

#[tokio::test]
async fn without_a_clients_context_a_trace_begins_here_and_the_log_names_it() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    pod.ask(APIS[0].path, APIS[0].body(false)).send(pod.address()).await.ok();
    let spans = until(&pod, 6).await;
    let server = only(&spans, "POST /v1/chat/completions");
    assert_eq!(server.text("parent_span_id"), "");
    let trace = server.text("trace_id");
    assert_eq!((seen(&pod.prefill).0.as_str(), seen(&pod.decode).0.as_str()), (trace, trace));
    assert_eq!(pod.process.requests(1).await[0]["trace_id"], trace);
    pod.end().await;
}

#[tokio::test]
async fn the_clients_decision_is_followed_and_its_state_and_baggage_travel_along() {
    let never = [("OTEL_TRACES_EXPORTER", "console"), ("OTEL_TRACES_SAMPLER_ARG", "0"), ALL[2]];
    for (variables, sampled) in [(ALL, false), (never, true)] {
        let pod = Pod::start_with(&variables, &["--tracing"]).await;
        let ask = pod
            .ask(APIS[0].path, APIS[0].body(false))
            .header("traceparent", &context(sampled))
            .header("tracestate", "vendor=1,other=2")
            .header("baggage", "tenant=a");
        ask.send(pod.address()).await.ok();
        for engine in [&pod.prefill, &pod.decode] {
            let (trace, parent, flags) = seen(engine);
            assert_eq!((trace.as_str(), flags.as_str()), (TRACE, if sampled { "01" } else { "00" }));
            assert_ne!(parent, "0000000000000000");
            let request = engine.requests().pop().unwrap();
            assert_eq!(request.header_values("tracestate"), ["vendor=1,other=2"]);
            assert_eq!(request.header_values("baggage"), ["tenant=a"]);
        }
        let log = pod.end().await;
        let written = spans(&log);
        assert_eq!(written.iter().any(|span| span.text("trace_id") == TRACE), sampled, "{written:?}");
    }
}

#[tokio::test]
async fn what_failed_is_marked_where_it_failed() {
    let pod = Pod::start_with(&ALL, &["--tracing", "--allow-target=127.0.0.1/32"]).await;
    pod.prefill.set_faults(Faults { status: Some(503), times: Some(1), ..Faults::default() });
    assert_eq!(pod.ask(APIS[0].path, APIS[0].body(false)).send(pod.address()).await.status, 503);
    let first = until(&pod, 4).await;
    let prefill = only(&first, "prefill");
    assert_eq!(prefill.attribute("prefill.status_code"), 503);
    for span in [prefill, client_of(&first, prefill), only(&first, "POST /v1/chat/completions")] {
        assert!(span.0["error"].is_string(), "{span:?}");
    }
    assert!(first.iter().all(|span| span.text("span") != "decode"));

    let denied = Ask::post(APIS[0].path, "{}").prefill("10.0.0.1:80").send(pod.address()).await;
    assert_eq!(denied.status, 403);
    let second = until(&pod, 6).await.split_off(4);
    let forward = only(&second, "forward_request");
    assert_eq!(forward.attribute("error"), "ssrf_protection_denied");
    assert_eq!(forward.attribute("denied_target"), "10.0.0.1:80");

    pod.decode.set_faults(Faults { reset_before: true, times: Some(1), ..Faults::default() });
    let answer = pod.ask(APIS[0].path, APIS[0].body(false)).send(pod.address()).await;
    assert_eq!(answer.status, 502);
    let third = until(&pod, 12).await.split_off(6);
    assert_eq!(only(&third, "decode").text("error"), "decode_broke");
    assert!(only(&third, "prefill").0["error"].is_null());
    pod.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_trace_too() {
    let pod = Pod::start_with(&ALL, &["--tracing"]).await;
    pod.decode.set_speeds(Speeds { itl_ms: 5, ..Speeds::default() });
    let endless = APIS[0].value("go on", 100_000, true).to_string();
    let mut stream = pod.ask(APIS[0].path, endless).open(pod.address()).await.unwrap();
    stream.until("data: ").await;
    drop(stream);
    let spans = until(&pod, 6).await;
    assert_eq!(only(&spans, "decode").text("error"), "client_left");
    pod.end().await;
}

#[tokio::test]
async fn without_the_flag_there_are_no_spans_and_contexts_pass_untouched() {
    let pod = Pod::start_with(&ALL, &[]).await;
    let ask = pod.ask(APIS[0].path, APIS[0].body(false)).header("traceparent", &context(true));
    ask.send(pod.address()).await.ok();
    for engine in [&pod.prefill, &pod.decode] {
        assert_eq!(seen(engine), (TRACE.to_owned(), PARENT.to_owned(), "01".to_owned()));
    }
    assert!(spans(&pod.end().await).is_empty());
}

#[tokio::test]
async fn an_exporter_that_does_not_exist_costs_the_traces_and_nothing_else() {
    for variables in [
        [("OTEL_TRACES_EXPORTER", "zipkin")],
        // A collector that is not there.
        [("OTEL_TRACES_EXPORTER", "otlp")],
    ] {
        let (nobody, _reserved) = crate::common::reserve_port();
        let endpoint = format!("http://127.0.0.1:{nobody}");
        let variables =
            [&variables[..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ALL[1]]].concat();
        let pod = Pod::start_with(&variables, &["--tracing"]).await;
        pod.ask(APIS[0].path, APIS[0].body(true)).send(pod.address()).await.ok();
        let log = pod.end().await;
        assert!(log.iter().any(|line| line["level"] == "ERROR" || line["level"] == "WARN"), "{log:?}");
    }
}
