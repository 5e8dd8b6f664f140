//! The names that dashboards know, and where they are served.

use crate::child::Process;
use crate::common::{APIS, Ask, Raw};
use crate::pod::Pod;
use crate::scrape::OURS;
use std::collections::BTreeMap;

/// Spec 12.6 and 7, and ours: family, type, and the names of its labels.
const FAMILIES: [(&str, &str, &[&str]); 34] = [
    ("llm_d_disagg_sidecar_requests", "counter", &["api_type"]),
    ("llm_d_disagg_sidecar_disagg_requests", "counter", &["disagg_type"]),
    ("llm_d_disagg_sidecar_encode_duration_seconds", "histogram", &[]),
    ("llm_d_disagg_sidecar_prefill_duration_seconds", "histogram", &[]),
    ("llm_d_disagg_sidecar_decode_duration_seconds", "histogram", &[]),
    ("llm_d_disagg_sidecar_request_errors", "counter", &["stage"]),
    ("llm_d_disagg_sidecar_nixl_push_dispatches", "counter", &["mode", "reason"]),
    ("llm_d_disagg_sidecar_nixl_push_identity_mismatches", "counter", &[]),
    ("llm_d_disagg_sidecar_nixl_push_identity_drops", "counter", &[]),
    ("llm_d_disagg_sidecar_nixl_push_serial_only_marks", "counter", &[]),
    ("moriio_dns_reresolve", "counter", &[]),
    ("moriio_dns_ip_changed", "counter", &[]),
    ("moriio_dns_lookup_failures", "counter", &[]),
    ("process_cpu_seconds", "counter", &[]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_open_fds", "gauge", &[]),
    ("llm_d_disagg_sidecar_build", "info", &["version"]),
    ("llm_d_disagg_sidecar_requests_finished", "counter", &["outcome"]),
    ("llm_d_disagg_sidecar_in_flight", "gauge", &["stage"]),
    ("llm_d_disagg_sidecar_ttft_seconds", "histogram", &["api_type"]),
    ("llm_d_disagg_sidecar_handover_seconds", "histogram", &[]),
    ("llm_d_disagg_sidecar_inter_token_latency_seconds", "histogram", &[]),
    ("llm_d_disagg_sidecar_kv_outstanding", "gauge", &[]),
    ("llm_d_disagg_sidecar_kv_handed_out", "counter", &[]),
    ("llm_d_disagg_sidecar_kv_settled", "counter", &["how"]),
    ("llm_d_disagg_sidecar_kv_releases", "counter", &["reason"]),
    ("llm_d_disagg_sidecar_retries", "counter", &["kind"]),
    ("llm_d_disagg_sidecar_prefill_failover", "counter", &["outcome"]),
    ("llm_d_disagg_sidecar_cancels", "counter", &["leg"]),
    ("llm_d_disagg_sidecar_bytes", "counter", &["direction"]),
    ("llm_d_disagg_sidecar_upstream_connections", "gauge", &["leg", "state"]),
    ("llm_d_disagg_sidecar_client_connections", "gauge", &[]),
    ("llm_d_disagg_sidecar_peers", "gauge", &["state"]),
    ("llm_d_disagg_sidecar_log_lines_dropped", "counter", &[]),
];

/// The names of a series' labels, `le` left out.
fn labels(series: &str) -> Vec<&str> {
    let Some((_, labels)) = series.split_once('{') else { return Vec::new() };
    let names = labels.trim_end_matches('}').split("\",").map(|label| label.split('=').next().unwrap());
    names.filter(|name| *name != "le").collect()
}

#[tokio::test]
async fn every_name_that_dashboards_know_is_there_from_the_start() {
    let pod = Pod::start(&[]).await;
    let answer = pod.get("/metrics").await.ok();
    assert!(answer.header("content-type").starts_with("application/openmetrics-text"));
    let text = answer.text();
    assert!(text.ends_with("# EOF\n"));
    let kinds: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap())
        .collect();
    for (family, kind, names) in FAMILIES {
        assert_eq!(kinds.get(family), Some(&kind), "{family}");
        let suffix = match kind {
            "counter" => "_total",
            "histogram" => "_bucket",
            "info" => "_info",
            _ => "",
        };
        let name = format!("{family}{suffix}");
        let series: Vec<&str> = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name.as_str()))
            .map(|line| line.rsplit_once(' ').unwrap().0)
            .collect();
        assert!(!series.is_empty(), "{name}");
        for series in series {
            assert_eq!(labels(series), names, "{series}");
        }
    }
    let scrape = pod.scrape().await;
    let with = |name: &str| {
        let name = format!("{OURS}{name}{{");
        scrape
            .series()
            .into_iter()
            .filter(|series| series.starts_with(&name))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for route in APIS {
        assert!(
            with("requests_total").contains(&format!("{OURS}requests_total{{api_type=\"{}\"}}", route.label))
        );
    }
    for kind in ["p/d", "e/p/d", "e/d"] {
        let series = format!("{OURS}disagg_requests_total{{disagg_type=\"{kind}\"}}");
        assert!(with("disagg_requests_total").contains(&series));
    }
    pod.end().await;
}

#[tokio::test]
async fn metrics_on_the_data_port_are_the_decode_engines() {
    let pod = Pod::start(&[]).await;
    let through = Ask::get("/metrics").send(pod.address()).await.ok();
    let direct = Ask::get("/metrics").send(pod.decode.addr()).await.ok();
    let names = |text: &str| {
        text.lines().filter(|line| line.starts_with("# TYPE")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(names(&through.text()), names(&direct.text()));
    assert!(!names(&through.text()).is_empty());
    assert!(!through.text().contains(OURS));
    // Nor are the other routes of the operator's port served there.
    for path in ["/ready", "/live", "/debug/requests", "/log-level"] {
        pod.decode.clear_requests();
        assert_eq!(Ask::get(path).send(pod.address()).await.status, 404, "{path}");
        assert_eq!(pod.decode.requests().len(), 1, "{path} is the engine's to answer");
    }
    pod.end().await;
}

#[tokio::test]
async fn the_operators_port_serves_no_engine() {
    let pod = Pod::start(&[]).await;
    for ask in [
        Ask::get("/v1/models"),
        Ask::get("/health"),
        Ask::post(APIS[0].path, APIS[0].body(false)),
        pod.ask(APIS[0].path, APIS[0].body(false)),
    ] {
        assert_eq!(ask.send(pod.admin).await.status, 404);
    }
    assert!(pod.decode.requests().is_empty() && pod.prefill.requests().is_empty());
    pod.end().await;
}

#[tokio::test]
async fn without_a_flag_no_second_port_is_opened_and_the_old_variable_opens_one() {
    let pod = Pod::start(&[]).await;
    let (port, _one) = crate::common::reserve_port();
    let (admin, _two) = crate::common::reserve_port();
    let decoder = format!("--model-server-port={}", pod.decode.addr().port());
    let flags = ["--secure-serving=false", &decoder];
    let address = format!("127.0.0.1:{admin}");
    let process = Process::start_as(port, &[("MORIIO_METRICS_ADDR", &address)], &flags).await;
    let answer = Ask::get("/metrics").send(address.parse().unwrap()).await.ok();
    assert!(answer.text().contains("moriio_dns_reresolve_total"));
    process.end().await;
    pod.end().await;
}

#[tokio::test]
async fn who_hangs_on_the_operators_port_delays_neither_probes_nor_requests() {
    let pod = Pod::start(&["--workers=1"]).await;
    let mut hanging = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::connect(pod.admin).await;
        raw.write("GET /metrics HTTP/1.1\r\nhost").await;
        hanging.push(raw);
    }
    pod.get("/live").await.ok();
    pod.get("/ready").await.ok();
    pod.ask(APIS[0].path, APIS[0].body(true)).send(pod.address()).await.ok();
    drop(hanging);
    pod.end().await;
}
