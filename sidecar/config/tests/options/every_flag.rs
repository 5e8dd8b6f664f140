//! Every flag does something, on the command line and in YAML; and what is printed can be read back.

use std::collections::BTreeSet;

use kvferry_config::{Flag, GROUPS, Kind, Options};
use serde_json::{Value, json};

use crate::operator::{Operator, flags, yaml};

/// Flags that make sense only together with others, or that show only where others are missing.
const NEEDED: [(&str, &[&str]); 14] = [
    ("enable-p2p-pull", &[]),
    ("client-ca-path", &[]),
    ("prefiller-client-cert-path", &["--enable-tls=prefiller,decoder,encoder"]),
    ("decoder-client-cert-path", &["--enable-tls=prefiller,decoder,encoder"]),
    ("encoder-client-cert-path", &["--enable-tls=prefiller,decoder,encoder"]),
    ("enable-ssrf-protection", &["--inference-pool=pool"]),
    ("moriio-write-mode", &["--moriio-local-pod-ip=10.0.0.1"]),
    ("moriio-parallel-dispatch", &["--moriio-write-mode", "--moriio-local-pod-ip=10.0.0.1"]),
    ("moriio-remote-hosts", &["--moriio-dp-size=4", "--moriio-dp-size-local=2"]),
    ("moriio-decode-hosts", &["--moriio-dp-size=4", "--moriio-dp-size-local=2"]),
    ("configuration", &[]),
    ("configuration-file", &[]),
    ("print-config", &[]),
    ("inference-pool-namespace", &["--inference-pool-name=pool"]),
];

/// For each flag a value that is not its default; what it changes; and what it changes that to.
fn examples() -> Vec<(&'static str, &'static str, &'static str, Value)> {
    vec![
        ("port", "8100", "port", json!(8100)),
        ("model-server-port", "9001", "model-server-port", json!(9001)),
        ("vllm-port", "9001", "model-server-port", json!(9001)),
        ("data-parallel-size", "4", "data-parallel-size", json!(4)),
        ("kv-connector", "sglang", "kv-connector", json!("sglang")),
        ("connector", "mooncake", "kv-connector", json!("mooncake")),
        ("ec-connector", "ec-nixl", "ec-connector", json!("ec-nixl")),
        ("enable-prefiller-sampling", "true", "enable-prefiller-sampling", json!(true)),
        ("prefill-limits", "compat", "prefill-limits", json!("compat")),
        ("decode-chunk-size", "128", "decode-chunk-size", json!(128)),
        ("first-token-forwarding", "true", "first-token-forwarding", json!(true)),
        ("pair-warm-up", "true", "pair-warm-up", json!(true)),
        ("enable-speculative-prefill", "true", "enable-speculative-prefill", json!(true)),
        ("nixl-push-mode", "true", "nixl-push-mode", json!(true)),
        ("bidirectional-kv", "true", "bidirectional-kv", json!(true)),
        ("bidirectional-session-header", "X-Chat", "bidirectional-session-header", json!("x-chat")),
        ("bidirectional-cache-size", "7", "bidirectional-cache-size", json!(7)),
        ("bidirectional-cache-ttl", "1h", "bidirectional-cache-ttl", json!("1h")),
        ("mooncake-bootstrap-port", "9000", "mooncake-bootstrap-port", json!(9000)),
        ("p2p-connector-port", "9000", "p2p-connector-port", json!(9000)),
        ("enable-p2p-pull", "true", "enable-p2p-pull", json!(true)),
        ("moriio-write-mode", "true", "moriio-write-mode", json!(true)),
        ("moriio-local-pod-ip", "10.0.0.9", "moriio-local-pod-ip", json!("10.0.0.9")),
        ("moriio-parallel-dispatch", "true", "moriio-parallel-dispatch", json!(true)),
        ("moriio-parallel-decode-wait-timeout", "9s", "moriio-parallel-decode-wait-timeout", json!("9s")),
        ("moriio-decode-notify-port", "1", "moriio-decode-notify-port", json!(1)),
        ("moriio-decode-handshake-port", "2", "moriio-decode-handshake-port", json!(2)),
        ("moriio-prefill-notify-port", "3", "moriio-prefill-notify-port", json!(3)),
        ("moriio-prefill-handshake-port", "4", "moriio-prefill-handshake-port", json!(4)),
        ("moriio-tp-size", "8", "moriio-tp-size", json!(8)),
        ("moriio-dp-size", "16", "moriio-dp-size", json!(16)),
        ("moriio-dp-size-local", "2", "moriio-dp-size-local", json!(2)),
        ("moriio-remote-hosts", "10.0.0.1,10.0.0.2", "moriio-remote-hosts", json!(["10.0.0.1", "10.0.0.2"])),
        ("moriio-decode-hosts", "10.0.1.1,10.0.1.2", "moriio-decode-hosts", json!(["10.0.1.1", "10.0.1.2"])),
        ("prefill-max-retries", "3", "prefill-max-retries", json!(3)),
        ("prefill-retry-backoff", "1s", "prefill-retry-backoff", json!("1s")),
        ("prefill-failure-policy", "retry-other", "prefill-failure-policy", json!("retry-other")),
        ("prefill-local-ratio", "0.5", "prefill-local-ratio", json!(0.5)),
        ("prefill-local-min-rate", "0", "prefill-local-min-rate", json!(0)),
        ("prefill-breaker-failures", "0", "prefill-breaker-failures", json!(0)),
        ("prefill-breaker-pause", "1m", "prefill-breaker-pause", json!("1m")),
        ("enable-ssrf-protection", "true", "enable-ssrf-protection", json!(true)),
        ("inference-pool", "ns/pool", "inference-pool", json!("ns/pool")),
        ("inference-pool-name", "pool", "inference-pool", json!("default/pool")),
        ("inference-pool-namespace", "ns", "inference-pool", json!("ns/pool")),
        ("pool-group", "inference.networking.x-k8s.io", "pool-group", json!("inference.networking.x-k8s.io")),
        ("allow-target", "10.0.0.0/8:80,a:1", "allow-target", json!(["10.0.0.0/8:80", "a:1"])),
        ("secure-serving", "false", "secure-serving", json!(false)),
        ("secure-proxy", "false", "secure-serving", json!(false)),
        ("cert-path", "/certs", "cert-path", json!("/certs")),
        ("client-ca-path", "/ca.pem", "client-ca-path", json!("/ca.pem")),
        ("tls-min-version", "VersionTLS13", "tls-min-version", json!("VersionTLS13")),
        ("tls-cipher-suites", "TLS_A,TLS_B", "tls-cipher-suites", json!(["TLS_A", "TLS_B"])),
        ("enable-tls", "encoder,decoder", "enable-tls", json!(["decoder", "encoder"])),
        ("prefiller-use-tls", "true", "enable-tls", json!(["prefiller"])),
        ("decoder-use-tls", "true", "enable-tls", json!(["decoder"])),
        ("tls-insecure-skip-verify", "prefiller", "tls-insecure-skip-verify", json!(["prefiller"])),
        ("prefiller-tls-insecure-skip-verify", "true", "tls-insecure-skip-verify", json!(["prefiller"])),
        ("decoder-tls-insecure-skip-verify", "true", "tls-insecure-skip-verify", json!(["decoder"])),
        ("leg-ca-path", "/ca.pem", "leg-ca-path", json!("/ca.pem")),
        ("prefiller-client-cert-path", "/p", "prefiller-client-cert-path", json!("/p")),
        ("decoder-client-cert-path", "/d", "decoder-client-cert-path", json!("/d")),
        ("encoder-client-cert-path", "/e", "encoder-client-cert-path", json!("/e")),
        ("prefill-timeout", "0s", "prefill-timeout", json!("0s")),
        ("prefill-cancel-grace", "0", "prefill-cancel-grace", json!("0s")),
        ("decode-stall-timeout", "90s", "decode-stall-timeout", json!("1m30s")),
        ("request-timeout", "1.5s", "request-timeout", json!("1s500ms")),
        ("connect-timeout", "1s", "connect-timeout", json!("1s")),
        ("body-timeout", "1s", "body-timeout", json!("1s")),
        ("max-body-size", "1024", "max-body-size", json!(1024)),
        ("max-idle-conns-per-host", "300", "max-idle-conns-per-host", json!(300)),
        ("log-level", "trace", "log-level", json!("trace")),
        ("zap-log-level", "debug", "log-level", json!("debug")),
        ("request-log", "false", "request-log", json!(false)),
        ("metrics-port", "9090", "metrics-port", json!(9090)),
        ("metrics-cert-dir", "/m", "metrics-cert-dir", json!("/m")),
        ("tracing", "true", "tracing", json!(true)),
        ("shutdown-timeout", "5s", "shutdown-timeout", json!("5s")),
        ("workers", "2", "workers", json!(2)),
        ("ready-when-decoder-answers", "true", "ready-when-decoder-answers", json!(true)),
        ("pod-name", "decode-0", "pod-name", json!("decode-0")),
        ("pod-namespace", "llm", "pod-namespace", json!("llm")),
    ]
}

/// Flags that change nothing in the configuration.
const WITHOUT_EFFECT: [&str; 7] = [
    "configuration",
    "configuration-file",
    "print-config",
    "zap-devel",
    "zap-encoder",
    "zap-stacktrace-level",
    "zap-time-encoding",
];

fn needs(name: &str) -> Operator {
    flags(NEEDED.iter().find(|(flag, _)| *flag == name).map_or(&[], |(_, needed)| needed))
}

fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

#[test]
fn every_flag_has_an_example_here() {
    let mut exemplified: Vec<&str> = examples().iter().map(|(flag, ..)| *flag).collect();
    exemplified.extend(WITHOUT_EFFECT);
    exemplified.sort_unstable();
    let mut flags: Vec<&str> = all().map(|flag| flag.name).collect();
    flags.sort_unstable();
    assert_eq!(exemplified, flags);
}

#[test]
fn every_flag_sets_what_it_says_and_nothing_else() {
    for (flag, value, key, expected) in examples() {
        let (before, flag) = (needs(flag), format!("--{flag}"));
        for args in [vec![format!("{flag}={value}")], vec![flag.clone(), value.to_owned()]] {
            let boolean = all().any(|row| format!("--{}", row.name) == flag && row.kind == Kind::Bool);
            if args.len() == 2 && boolean {
                continue;
            }
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            changes(&before, &before.clone().flags(&args), key, &expected);
        }
    }
}

#[test]
fn every_flag_is_a_key_in_yaml() {
    for (name, value, key, expected) in examples() {
        let flag = all().find(|flag| flag.name == name).unwrap();
        let value = match flag.kind {
            Kind::List => format!("[{value}]"),
            _ => value.to_owned(),
        };
        let before = needs(name);
        let after = before.clone().flags(&["--configuration", &format!("{name}: {value}")]);
        // In YAML, 0 counts where it means something, and is "not set" where it does not.
        changes(&before, &after, key, &expected);
    }
}

#[track_caller]
fn changes(before: &Operator, after: &Operator, key: &str, expected: &Value) {
    let (before, after_json) = (before.json(), after.json());
    let (before, after_json) = (before.as_object().unwrap(), after_json.as_object().unwrap());
    let changed: Vec<_> = after_json.iter().filter(|(name, value)| before[*name] != **value).collect();
    assert_eq!(changed, [(&key.to_owned(), expected)], "{after:?}");
}

#[test]
fn the_printed_configuration_has_every_flag_that_is_not_an_old_name() {
    let printed = flags(&[]).json();
    let printed: BTreeSet<&str> = printed.as_object().unwrap().keys().map(String::as_str).collect();
    let expected: BTreeSet<&str> = all()
        .filter(|flag| flag.instead.is_none() && !WITHOUT_EFFECT.contains(&flag.name))
        .map(|flag| flag.name)
        .filter(|name| *name != "zap-log-level")
        .chain(["environment"])
        .collect();
    assert_eq!(printed, expected);
}

#[test]
fn what_is_printed_can_be_given_back_as_configuration() {
    let read_back = |options: &Options| -> Options {
        let mut printed = options.to_json();
        printed.as_object_mut().unwrap().remove("environment");
        yaml(&printed.to_string()).options()
    };
    let defaults = flags(&[]).options();
    assert_eq!(read_back(&defaults), defaults);
    let all = flags(&[
        "--moriio-dp-size=4",
        "--enable-tls=prefiller,decoder,encoder",
        "--secure-serving",
        "--allow-target=[fd00::/8]:80,10.0.0.0/8,host:1",
        "--inference-pool=ns/pool",
        "--enable-ssrf-protection",
        "--prefill-timeout=1m30s",
        "--prefill-local-ratio=0.125",
        "--decoder-client-cert-path=/d",
        "--decode-chunk-size=64",
        "--metrics-port=9090",
        "--log-level=off",
        "--workers=3",
    ])
    .options();
    assert_ne!(all, defaults);
    assert_eq!(read_back(&all), all);
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let mut json = flags(&[]).json();
    let environment = json.as_object_mut().unwrap().remove("environment").unwrap();
    assert_eq!(
        json,
        serde_json::from_str::<Value>(
            r#"{
            "port": 8000, "model-server-port": 8200, "data-parallel-size": 1,
            "kv-connector": "nixlv2", "ec-connector": null, "enable-prefiller-sampling": false,
            "prefill-limits": "per-api", "decode-chunk-size": null, "first-token-forwarding": false,
            "pair-warm-up": false, "enable-speculative-prefill": false,
            "nixl-push-mode": false, "bidirectional-kv": false,
            "bidirectional-session-header": "x-session-token", "bidirectional-cache-size": 1024,
            "bidirectional-cache-ttl": "8m",
            "mooncake-bootstrap-port": 8998, "p2p-connector-port": 7777, "enable-p2p-pull": false,
            "moriio-write-mode": false, "moriio-local-pod-ip": null, "moriio-parallel-dispatch": false,
            "moriio-parallel-decode-wait-timeout": "30s",
            "moriio-decode-notify-port": 61005, "moriio-decode-handshake-port": 6301,
            "moriio-prefill-notify-port": 61005, "moriio-prefill-handshake-port": 6301,
            "moriio-tp-size": 1, "moriio-dp-size": 1, "moriio-dp-size-local": null,
            "moriio-remote-hosts": [], "moriio-decode-hosts": [],
            "prefill-max-retries": 0, "prefill-retry-backoff": "200ms", "prefill-failure-policy": "fail",
            "prefill-local-ratio": 0.2, "prefill-local-min-rate": 10, "prefill-breaker-failures": 5,
            "prefill-breaker-pause": "10s",
            "enable-ssrf-protection": false, "inference-pool": null,
            "pool-group": "inference.networking.k8s.io", "allow-target": [],
            "secure-serving": true, "cert-path": null, "client-ca-path": null,
            "tls-min-version": "VersionTLS12", "tls-cipher-suites": [],
            "enable-tls": [], "tls-insecure-skip-verify": [], "leg-ca-path": null,
            "prefiller-client-cert-path": null, "decoder-client-cert-path": null,
            "encoder-client-cert-path": null,
            "prefill-timeout": "10m", "prefill-cancel-grace": "2s", "decode-stall-timeout": "30m",
            "request-timeout": "0s", "connect-timeout": "30s", "body-timeout": "1m",
            "max-body-size": 67108864, "max-idle-conns-per-host": 1024,
            "log-level": "info", "request-log": true, "metrics-port": null, "metrics-cert-dir": null,
            "tracing": false,
            "shutdown-timeout": "1m", "workers": 4, "ready-when-decoder-answers": false,
            "pod-name": null, "pod-namespace": null
        }"#
        )
        .unwrap()
    );
    assert_eq!(
        environment,
        json!({
            "SGLANG_BOOTSTRAP_PORT": 8998, "POD_IP": null,
            "MORIIO_DNS_RESOLVE_TTL_SECONDS": 30, "MORIIO_DNS_RESOLVE_TIMEOUT_SECONDS": 5,
            "MORIIO_METRICS_ADDR": null, "HTTP_PROXY": null, "HTTPS_PROXY": null, "NO_PROXY": null,
        })
    );
}

#[test]
fn printing_is_asked_for_by_a_flag_and_stops_nothing_else() {
    assert!(flags(&["--print-config"]).parse().unwrap().print_config);
    assert!(!flags(&["--print-config=false"]).parse().unwrap().print_config);
    assert!(!flags(&[]).parse().unwrap().print_config);
}
