//! What cannot work is refused, in one line that says what to do. Scripts match some of these.

use crate::operator::{flags, yaml};

/// Flags, and the line they are refused with.
type Refusals<'a> = &'a [(&'a [&'a str], &'a str)];

#[track_caller]
fn refused(table: Refusals<'_>) {
    for (args, expected) in table {
        assert_eq!(flags(args).refusal(), *expected, "{args:?}");
    }
}

#[test]
fn ports_that_cannot_be_are_refused() {
    refused(&[
        (&["--port=x"], "--port must be a valid integer, got \"x\""),
        (&["--port="], "--port must be a valid integer, got \"\""),
        (&["--port=0"], "--port must be between 1 and 65535, got 0"),
        (&["--port=65536"], "--port must be between 1 and 65535, got 65536"),
        (&["--port=-1"], "--port must be between 1 and 65535, got -1"),
        (&["--model-server-port=x"], "--model-server-port must be a valid integer, got \"x\""),
        (&["--model-server-port=70000"], "--model-server-port must be between 1 and 65535, got 70000"),
        (&["--vllm-port=70000"], "--vllm-port must be between 1 and 65535, got 70000"),
        (&["--data-parallel-size=0"], "--data-parallel-size must be a positive integer, got 0"),
        (&["--data-parallel-size=-2"], "--data-parallel-size must be a positive integer, got -2"),
        (&["--data-parallel-size=65535"], "--data-parallel-size must be below 65535, got 65535"),
        (&["--data-parallel-size=two"], "--data-parallel-size must be a valid integer, got \"two\""),
        (
            &["--data-parallel-size=8", "--port=65530"],
            "--port 65530 leaves no port for rank 7: 65537 exceeds 65535; give a lower one",
        ),
        (
            &["--data-parallel-size=8", "--model-server-port=65530"],
            "--model-server-port 65530 leaves no port for rank 7: 65537 exceeds 65535; give a lower one",
        ),
        (
            &["--data-parallel-size=8", "--p2p-connector-port=65530"],
            "--p2p-connector-port 65530 leaves no port for rank 7: 65537 exceeds 65535; give a lower one",
        ),
        (
            &["--port=8200"],
            "--port 8200 and --model-server-port 8200 overlap with 1 rank(s): the sidecar would be its own decode \
             engine; give ports further apart",
        ),
        (
            &["--port=8000", "--vllm-port=8003", "--data-parallel-size=4"],
            "--port 8000 and --vllm-port 8003 overlap with 4 rank(s): the sidecar would be its own decode engine; \
             give ports further apart",
        ),
    ]);
}

#[test]
fn connectors_and_what_they_cannot_do_are_refused() {
    refused(&[
        (
            &["--kv-connector=ucx"],
            "--kv-connector must be one of: nixlv2, shared-storage, sglang, mooncake, offloading (got \"ucx\")",
        ),
        (
            &["--connector=ucx"],
            "--kv-connector must be one of: nixlv2, shared-storage, sglang, mooncake, offloading (got \"ucx\")",
        ),
        (&["--ec-connector=ec"], "--ec-connector must be one of: ec-example, ec-nixl (got \"ec\")"),
        (
            &["--enable-p2p-pull", "--kv-connector=sglang"],
            "--enable-p2p-pull requires --kv-connector=nixlv2 (got \"sglang\")",
        ),
        (
            &["--nixl-push-mode", "--kv-connector=mooncake"],
            "--nixl-push-mode requires --kv-connector=nixlv2 (got \"mooncake\")",
        ),
        (
            &["--nixl-push-mode", "--moriio-write-mode", "--moriio-local-pod-ip=10.0.0.1"],
            "--nixl-push-mode and --moriio-write-mode are mutually exclusive: both say who writes KV; give one",
        ),
        (
            &["--bidirectional-kv", "--kv-connector=offloading"],
            "--bidirectional-kv requires --kv-connector=nixlv2 (got \"offloading\")",
        ),
        (
            &["--bidirectional-session-header=a b"],
            "--bidirectional-session-header must be the name of a header, got \"a b\"",
        ),
        (&["--bidirectional-cache-size=0"], "--bidirectional-cache-size must be at least 1, got 0"),
        (&["--bidirectional-cache-ttl=0"], "--bidirectional-cache-ttl must be greater than 0"),
        (&["--prefill-limits=none"], "--prefill-limits must be one of: per-api, compat (got \"none\")"),
        (
            &["--decode-chunk-size=-5"],
            "--decode-chunk-size must be a non-negative integer of at most 4294967295 (0: not in chunks), got -5",
        ),
        (&["--mooncake-bootstrap-port=0"], "--mooncake-bootstrap-port must be between 1 and 65535, got 0"),
        (&["--p2p-connector-port=70000"], "--p2p-connector-port must be between 1 and 65535, got 70000"),
    ]);
}

#[test]
fn failover_that_cannot_be_is_refused() {
    refused(&[
        (
            &["--prefill-failure-policy=retry"],
            "--prefill-failure-policy must be one of: fail, retry-other, local (got \"retry\")",
        ),
        (&["--prefill-local-ratio=1.5"], "--prefill-local-ratio must be a number from 0 to 1, got \"1.5\""),
        (&["--prefill-local-ratio=-0.1"], "--prefill-local-ratio must be a number from 0 to 1, got \"-0.1\""),
        (&["--prefill-local-ratio=NaN"], "--prefill-local-ratio must be a number from 0 to 1, got \"NaN\""),
        (&["--prefill-local-min-rate=-1"], "--prefill-local-min-rate must be at least 0, got -1"),
        (&["--prefill-breaker-failures=-1"], "--prefill-breaker-failures must be at least 0, got -1"),
        (&["--prefill-breaker-pause=0s"], "--prefill-breaker-pause must be greater than 0"),
        (&["--prefill-max-retries=-1"], "--prefill-max-retries must be at least 0, got -1"),
        (
            &["--prefill-max-retries=1", "--prefill-retry-backoff=0s"],
            "--prefill-retry-backoff must be positive when --prefill-max-retries > 0, got 0s",
        ),
        (
            &["--prefill-max-retries=1", "--prefill-retry-backoff=-1s"],
            "--prefill-retry-backoff must be positive when --prefill-max-retries > 0, got -1s",
        ),
    ]);
}

#[test]
fn limits_that_cannot_be_are_refused() {
    refused(&[
        (
            &["--prefill-timeout=5"],
            "--prefill-timeout must be a number with a unit, such as 300ms, 30s or 1m30s, got \"5\"",
        ),
        (&["--prefill-timeout=-5s"], "--prefill-timeout must not be negative, got \"-5s\""),
        (&["--connect-timeout=0s"], "--connect-timeout must be greater than 0"),
        (&["--body-timeout=0"], "--body-timeout must be greater than 0"),
        (&["--max-body-size=0"], "--max-body-size must be at least 1, got 0"),
        (&["--max-body-size=64Mi"], "--max-body-size must be a valid integer, got \"64Mi\""),
        (&["--workers=0"], "--workers must be at least 1, got 0"),
    ]);
}

#[test]
fn booleans_that_are_neither_are_refused() {
    refused(&[
        (&["--secure-serving=maybe"], "--secure-serving must be true or false, got \"maybe\""),
        (&["--enable-prefiller-sampling=2"], "--enable-prefiller-sampling must be true or false, got \"2\""),
        (&["--print-config=2"], "--print-config must be true or false, got \"2\""),
    ]);
}

#[test]
fn logs_and_metrics_that_cannot_be_are_refused() {
    refused(&[
        (
            &["--log-level=loud"],
            "--log-level must be one of: off, error, warn, info, debug, trace (got \"loud\")",
        ),
        (
            &["--zap-log-level=0"],
            "--zap-log-level must be debug, info, error, panic or an integer above 0, got \"0\"",
        ),
        (&["--metrics-port=70000"], "--metrics-port must be between 1 and 65535, got 70000"),
        (
            &["--metrics-port=8003", "--data-parallel-size=4"],
            "--metrics-port 8003 is taken by the listener or the decode engine; give another",
        ),
        (
            &["--metrics-port=8200"],
            "--metrics-port 8200 is taken by the listener or the decode engine; give another",
        ),
    ]);
}

#[test]
fn a_configuration_is_checked_as_flags_are() {
    for (text, expected) in [
        ("port: 70000", "--port must be between 1 and 65535, got 70000"),
        ("data-parallel-size: -1", "--data-parallel-size must be a positive integer, got -1"),
        (
            "prefill-timeout: soon",
            "--prefill-timeout must be a number with a unit, such as 300ms, 30s or 1m30s, got \"soon\"",
        ),
        ("max-body-size: 0", "--max-body-size must be at least 1, got 0"),
        ("workers: 0", "--workers must be at least 1, got 0"),
    ] {
        assert_eq!(yaml(text).refusal(), expected, "{text}");
    }
}

#[test]
fn the_first_thing_that_is_wrong_is_told() {
    let operator = flags(&["--max-body-size=0", "--kv-connector=x", "--port=x", "--data-parallel-size=0"]);
    assert_eq!(operator.refusal(), "--data-parallel-size must be a positive integer, got 0");
}

#[test]
fn bounds_themselves_are_accepted() {
    for args in [
        &["--port=1", "--model-server-port=65535"][..],
        &["--port=65528", "--data-parallel-size=8"],
        &["--port=8000", "--model-server-port=8004", "--data-parallel-size=4"],
        &["--p2p-connector-port=65528", "--data-parallel-size=8"],
        &["--prefill-max-retries=0", "--prefill-retry-backoff=0s"],
        &["--prefill-local-ratio=0"],
        &["--prefill-local-ratio=1"],
        &["--kv-connector=offloading", "--data-parallel-size=2"],
        &["--metrics-port=8004", "--data-parallel-size=4"],
    ] {
        flags(args).options();
    }
    for connector in crate::operator::KV_CONNECTORS {
        assert_eq!(flags(&["--kv-connector", connector]).options().handoff.kv_connector, connector);
    }
    for connector in crate::operator::EC_CONNECTORS {
        let options = flags(&["--ec-connector", connector]).options();
        assert_eq!(options.handoff.ec_connector.as_deref(), Some(connector));
    }
}

#[test]
fn zero_takes_a_limit_away() {
    let limits =
        flags(&["--prefill-timeout=0", "--decode-stall-timeout=0s", "--request-timeout=0"]).options().limits;
    assert_eq!(
        (limits.prefill_timeout, limits.decode_stall_timeout, limits.request_timeout),
        (None, None, None)
    );
    assert_eq!(flags(&["--prefill-breaker-failures=0"]).options().failover.prefill_breaker_failures, None);
    for args in ["--max-idle-conns-per-host=0", "--max-idle-conns-per-host=-1"] {
        assert_eq!(flags(&[args]).options().limits.max_idle_conns_per_host.get(), 1024);
    }
}

#[test]
fn a_chat_cannot_come_back_to_a_pod_that_does_not_know_its_name() {
    let nameless = flags(&["--bidirectional-kv"]);
    let half = nameless.clone().flags(&["--pod-name=decode-0"]);
    for operator in [&nameless, &half] {
        operator.warning("--bidirectional-kv cannot tell this pod's chats from others'");
    }
    let named = nameless.env("POD_NAME", "decode-0").env("POD_NAMESPACE", "llm");
    assert!(named.warnings().iter().all(|warning| !warning.contains("--bidirectional-kv")));
}
