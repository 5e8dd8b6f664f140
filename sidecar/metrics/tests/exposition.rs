//! What a scraper gets: the promised names and labels, in text that parses, with a number of series that never grows.

#![expect(clippy::unwrap_used, reason = "a test may stop at what cannot be")]
#![expect(
    clippy::float_cmp,
    reason = "counts are whole numbers, and sums are of values that floats hold exactly"
)]

mod common;

use std::time::{Duration, Instant};

use common::Scrape;
use kvferry_metrics::{
    Api, Connection, Direction, Disaggregation, Failover, FirstToken, KvCounts, Leg, Metrics, PeerState,
    Place, PushDispatch, Reading, ReleaseReason, Retry, Source, Speculative, Stage, Tokens, WarmUp,
};

/// What a test says instead of the sidecar's parts.
struct Says(Reading);

impl Source for Says {
    fn reading(&self) -> Reading {
        self.0.clone()
    }
}

fn metrics() -> Metrics {
    Metrics::new(&[("version", "1.2.3"), ("connector", "nixlv2")], &["malformed_body", "decode_broke"])
}

fn scrape(metrics: &Metrics) -> Scrape {
    Scrape::parse(&metrics.encode(&Says(Reading::default())))
}

#[test]
fn the_names_of_the_sidecar_it_replaces_are_there_from_the_first_scrape() {
    let scrape = scrape(&metrics());
    for (name, kind) in [
        ("llm_d_disagg_sidecar_requests", "counter"),
        ("llm_d_disagg_sidecar_disagg_requests", "counter"),
        ("llm_d_disagg_sidecar_encode_duration_seconds", "histogram"),
        ("llm_d_disagg_sidecar_prefill_duration_seconds", "histogram"),
        ("llm_d_disagg_sidecar_decode_duration_seconds", "histogram"),
        ("llm_d_disagg_sidecar_request_errors", "counter"),
        ("llm_d_disagg_sidecar_nixl_push_dispatches", "counter"),
        ("llm_d_disagg_sidecar_nixl_push_identity_mismatches", "counter"),
        ("llm_d_disagg_sidecar_nixl_push_identity_drops", "counter"),
        ("llm_d_disagg_sidecar_nixl_push_serial_only_marks", "counter"),
        ("moriio_dns_reresolve", "counter"),
        ("moriio_dns_ip_changed", "counter"),
        ("moriio_dns_lookup_failures", "counter"),
        ("process_cpu_seconds", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
    ] {
        assert_eq!(scrape.types.get(name).map(String::as_str), Some(kind), "{name}");
    }
    let apis =
        ["chat_completions", "completions", "messages", "responses", "sglang_generate", "vllm_generate"];
    assert_eq!(scrape.label_values("requests_total", "api_type"), apis.into());
    assert_eq!(scrape.label_values("disagg_requests_total", "disagg_type"), ["e/d", "e/p/d", "p/d"].into());
    assert_eq!(scrape.label_values("request_errors_total", "stage"), ["decode", "encode", "prefill"].into());
    for (mode, reason) in [
        ("parallel", "cache_hit"),
        ("serial", "cache_miss"),
        ("serial", "serial_only"),
        ("serial", "prefill_retry"),
        ("serial", "identity_changed"),
    ] {
        let series = format!(r#"nixl_push_dispatches_total{{mode="{mode}",reason="{reason}"}}"#);
        assert_eq!(scrape.ours(&series), 0.0, "{series}");
    }
    // The ladder of llm-d's own components: legs measured there and here add up.
    let bounds = scrape.label_values("prefill_duration_seconds_bucket", "le");
    assert_eq!(bounds.len(), 36);
    for bound in ["0.005", "0.025", "0.4", "1.25", "6.0", "45.0", "240.0", "3600.0", "+Inf"] {
        assert!(bounds.contains(bound), "{bound}: {bounds:?}");
    }
    assert_eq!(scrape.ours(r#"build_info{version="1.2.3",connector="nixlv2"}"#), 1.0);
}

#[test]
fn every_family_says_what_it_means() {
    let scrape = scrape(&metrics());
    for (family, kind) in &scrape.types {
        let help = &scrape.helps[family];
        assert!(help.len() > 15, "{family}: {help}");
        let unit = ["seconds", "bytes"].into_iter().find(|unit| family.ends_with(&format!("_{unit}")));
        if let Some(unit) = unit {
            assert!(help.contains(&format!("in {unit}")), "{family} does not say its unit: {help}");
        } else {
            assert_ne!(kind, "histogram", "{family} has no unit");
        }
    }
}

#[test]
fn every_recording_shows_in_its_own_series() {
    let metrics = metrics();
    metrics.request(Api::SglangGenerate);
    metrics.disaggregated(Disaggregation::EncodePrefillDecode);
    metrics.finished("decode_broke");
    metrics.finished("ok");
    metrics.handover(Duration::from_millis(5));
    metrics.released(ReleaseReason::Superseded);
    metrics.retried(Retry::Other);
    metrics.failed_over(Failover::OverBudget);
    metrics.cancelled(Leg::Decode);
    metrics.bytes(Direction::Out, 700);
    metrics.warmed_up(WarmUp::Failed);
    metrics.first_token(FirstToken::Resumed);
    metrics.speculated(Speculative::SkippedBusy);
    metrics.push_dispatched(PushDispatch::IdentityKnown);
    metrics.push_identity_mismatched();
    metrics.push_identity_dropped();
    metrics.push_marked_serial_only();
    metrics.dns_resolved();
    metrics.dns_changed();
    metrics.dns_failed();

    let zero = scrape(&self::metrics());
    let scrape = scrape(&metrics);
    let mut changed: Vec<(&str, f64)> = scrape
        .samples
        .iter()
        .filter(|(series, value)| !series.starts_with("process_") && zero.samples[*series] != **value)
        .map(|(series, value)| (series.trim_start_matches("llm_d_disagg_sidecar_"), *value))
        .filter(|(series, _)| !series.contains("_bucket{"))
        .collect();
    changed.sort_by(|a, b| a.0.cmp(b.0));
    assert_eq!(
        changed,
        [
            (r#"bytes_total{direction="out"}"#, 700.0),
            (r#"cancels_total{leg="decode"}"#, 1.0),
            (r#"disagg_requests_total{disagg_type="e/p/d"}"#, 1.0),
            (r#"first_token_total{outcome="resumed"}"#, 1.0),
            ("handover_seconds_count", 1.0),
            ("handover_seconds_sum", 0.005),
            (r#"kv_releases_total{reason="superseded"}"#, 1.0),
            ("moriio_dns_ip_changed_total", 1.0),
            ("moriio_dns_lookup_failures_total", 1.0),
            ("moriio_dns_reresolve_total", 1.0),
            (r#"nixl_push_dispatches_total{mode="parallel",reason="cache_hit"}"#, 1.0),
            ("nixl_push_identity_drops_total", 1.0),
            ("nixl_push_identity_mismatches_total", 1.0),
            ("nixl_push_serial_only_marks_total", 1.0),
            (r#"pair_warm_ups_total{outcome="failed"}"#, 1.0),
            (r#"prefill_failover_total{outcome="over_budget"}"#, 1.0),
            (r#"requests_finished_total{outcome="decode_broke"}"#, 1.0),
            (r#"requests_finished_total{outcome="ok"}"#, 1.0),
            (r#"requests_total{api_type="sglang_generate"}"#, 1.0),
            (r#"retries_total{kind="other"}"#, 1.0),
            (r#"speculative_prefill_total{outcome="skipped_busy"}"#, 1.0),
        ]
    );
}

#[test]
fn what_lives_elsewhere_is_read_at_the_scrape() {
    let metrics = metrics();
    let mut reading = Reading {
        kv: KvCounts { handed_out: 10, consumed: 5, released: 2, expired: 1 },
        client_connections: 42,
        log_lines_dropped: 3,
        spans_dropped: 4,
        allowlist_age: Some(Duration::from_millis(1_500)),
        ..Reading::default()
    };
    reading.upstream_connections.add((Leg::Prefill, Connection::Idle), 7);
    reading.upstream_connections_opened.add(Leg::Decode, 9);
    reading.peers.add(PeerState::SetAside, 1);
    let scrape = Scrape::parse(&metrics.encode(&Says(reading)));
    for (series, value) in [
        ("kv_outstanding", 2.0),
        ("kv_handed_out_total", 10.0),
        (r#"kv_settled_total{how="consumed"}"#, 5.0),
        (r#"kv_settled_total{how="released"}"#, 2.0),
        (r#"kv_settled_total{how="expired"}"#, 1.0),
        (r#"upstream_connections{leg="prefill",state="idle"}"#, 7.0),
        (r#"upstream_connections{leg="decode",state="idle"}"#, 0.0),
        (r#"upstream_connections_opened_total{leg="decode"}"#, 9.0),
        ("client_connections", 42.0),
        (r#"peers{state="set_aside"}"#, 1.0),
        ("log_lines_dropped_total", 3.0),
        ("trace_spans_dropped_total", 4.0),
        ("allowlist_age_seconds", 1.5),
    ] {
        assert_eq!(scrape.ours(series), value, "{series}");
    }
    let without = self::scrape(&metrics);
    assert!(!without.series().contains("llm_d_disagg_sidecar_allowlist_age_seconds"));
}

#[test]
fn no_recording_adds_a_series() {
    let metrics = metrics();
    let before = scrape(&metrics);
    for number in 0..1_000 {
        metrics.finished(&format!("code-{number}"));
    }
    for api in Api::ALL {
        metrics.request(*api);
        let mut tokens = Tokens::new(*api, Instant::now(), true);
        tokens.passed(&metrics, Instant::now());
        tokens.passed(&metrics, Instant::now());
    }
    for stage in Stage::ALL {
        metrics.start(*stage).served();
        metrics.start(*stage).failed();
    }
    for place in Place::ALL {
        drop(metrics.enter(*place));
    }
    let after = scrape(&metrics);
    assert_eq!(before.series(), after.series());
    assert!(before.series().len() < 600, "{} series are too many for a sidecar", before.series().len());
    assert_eq!(after.ours(r#"requests_finished_total{outcome="other"}"#), 1_000.0);
}

#[test]
fn a_histogram_is_cumulative_and_ends_with_its_count() {
    let metrics = metrics();
    let started = Instant::now();
    let mut tokens = Tokens::new(Api::ChatCompletions, started, true);
    tokens.passed(&metrics, started + Duration::from_millis(250));
    for number in 1..=100 {
        tokens.passed(&metrics, started + Duration::from_millis(250 + 10 * number));
    }
    let scrape = scrape(&metrics);
    let bucket = |bound: &str| scrape.ours(&format!(r#"inter_token_latency_seconds_bucket{{le="{bound}"}}"#));
    assert_eq!([bucket("0.0075"), bucket("0.01"), bucket("0.5"), bucket("+Inf")], [0.0, 100.0, 100.0, 100.0]);
    assert_eq!(scrape.ours("inter_token_latency_seconds_count"), 100.0);
    assert_eq!(scrape.ours("inter_token_latency_seconds_sum"), 1.0);
    let ttft = |bound: &str| {
        scrape.ours(&format!(r#"ttft_seconds_bucket{{le="{bound}",api_type="chat_completions"}}"#))
    };
    assert_eq!([ttft("0.2"), ttft("0.3"), ttft("+Inf")], [0.0, 1.0, 1.0]);
    assert_eq!(scrape.ours(r#"ttft_seconds_count{api_type="messages"}"#), 0.0);
}

#[test]
fn an_answer_that_is_not_streamed_has_a_first_token_and_no_rhythm() {
    let metrics = metrics();
    let started = Instant::now();
    let mut tokens = Tokens::new(Api::Completions, started, false);
    for number in 1..=3 {
        tokens.passed(&metrics, started + Duration::from_millis(number));
    }
    let scrape = scrape(&metrics);
    assert_eq!(scrape.ours(r#"ttft_seconds_count{api_type="completions"}"#), 1.0);
    assert_eq!(scrape.ours("inter_token_latency_seconds_count"), 0.0);
}
